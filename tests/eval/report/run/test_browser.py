"""The report in a real browser: it requests nothing, runs no other script, and is worked by keys at two widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.chromium import CHROMIUM, chromium
from eval.report.run import ReportData, write_report
from tests.eval.report.run.test_page import ATTACK, case, critique, full_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}"),
]
INJECTED = f"{ATTACK}<img src=x onerror='window.injected = true'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three cases; the critic ranks the case "wrong" the wrong way round."""
    scored = dataclasses.replace(
        critique(), scores=(80.0, 50.0, 20.0), comments=("fits well", INJECTED, "the foot is off"), reasons=()
    )
    errors = {"right": (50.0, 60.0, 70.0), "half": (60.0, 50.0, 70.0), "wrong": (90.0, 80.0, 70.0)}
    cases = tuple(
        dataclasses.replace(
            case(errors_mm, title), critique=dataclasses.replace(scored, tags=(f"tag-{title}",))
        )
        for title, errors_mm in errors.items()
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, dataclasses.replace(full_data(), cases=cases))
    return path


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    with_page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    with_page.on("console", lambda message: problems.append(message.text))
    with_page.on("pageerror", lambda error: problems.append(str(error)))
    with_page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
    )
    with_page.goto(file.as_uri())
    expect(with_page.locator("#case h3")).to_have_text("wrong")
    yield with_page
    assert problems == []
    with_page.close()


def title(page: Page) -> str:
    return page.locator("#case h3").inner_text()


def test_everything_is_drawn_without_a_request_or_a_message(page: Page) -> None:
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        expect(chart.locator("svg").first).to_be_visible()
    assert page.locator("#all-scores .point").count() == 9
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_untrusted_text_is_text(page: Page) -> None:
    page.keyboard.press("j")
    expect(page.locator("#chosen .comment")).to_have_text(INJECTED)
    assert page.evaluate("window.injected") is None


def test_the_policy_blocks_other_scripts_and_requests(browser: Browser, file: Path) -> None:
    with browser.new_context() as context:
        page, violations = context.new_page(), []
        page.on("console", lambda message: violations.append(message.text))
        page.goto(file.as_uri())
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.injected = 1'}))"
        )
        assert page.evaluate("window.injected") is None
        failed = page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
        assert failed == "refused"
        assert sum("Content Security Policy" in text for text in violations) >= 2


def test_keys_move_between_cases_and_hypotheses(page: Page) -> None:
    expect(page.locator("#position")).to_have_text("1 of 3")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#case h3")).to_have_text("half")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # the last one stays
    expect(page.locator("#case h3")).to_have_text("right")
    assert page.locator("#next").is_disabled()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#case h3")).to_have_text("half")
    chosen = page.locator(".member[aria-pressed=true]")
    assert chosen.get_attribute("data-hypothesis") == "0"
    page.keyboard.press("j")
    assert chosen.get_attribute("data-hypothesis") == "1"
    expect(page.locator(".verdict")).to_contain_text("true MPJPE 50 mm, rank 1 by truth")
    page.keyboard.press("o")
    assert page.locator(".large .layer").evaluate("(layer) => getComputedStyle(layer).opacity") == "0"


def test_the_list_is_filtered_and_ordered(page: Page) -> None:
    entries = page.locator("#case-list .entry-title")
    assert entries.all_inner_texts() == ["wrong", "half", "right"]
    page.keyboard.press("/")
    page.keyboard.type("tag-right")
    expect(page.locator("#case h3")).to_have_text("right")  # the case that was shown is not in the list
    assert entries.all_inner_texts() == ["right"]
    page.keyboard.press("Escape")
    page.locator("#filter").fill("")
    page.locator("#order").select_option("title")
    assert entries.all_inner_texts() == ["half", "right", "wrong"]
    page.locator("#flag").select_option("lost")
    assert entries.all_inner_texts() == []
    assert title(page) == "right"


def test_a_point_of_the_chart_opens_its_case(page: Page) -> None:
    page.locator("#all-scores").scroll_into_view_if_needed()
    expect(page.locator("#all-scores .point").first).to_be_visible()
    page.evaluate(
        "document.getElementById('all-scores').emit('plotly_click', {points: [{customdata: [2, 1]}]})"
    )
    expect(page.locator("#case h3")).to_have_text("right")
    assert page.locator(".member[aria-pressed=true]").get_attribute("data-hypothesis") == "1"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(browser: Browser, file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(file.as_uri())
    expect(page.locator("#case h3")).to_have_text("wrong")
    for details in page.locator("#case details > summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    luminance = {
        name: sum(map(int, color[4:-1].split(","))) for name, color in (("ink", ink), ("paper", paper))
    }
    assert (luminance["ink"] < luminance["paper"]) == (scheme == "light")
    page.close()


def test_a_report_without_cases_has_no_browser_of_cases(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", ReportData("A run", {}, {}))
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#cases").count() == 0
    assert errors == []
    page.close()
