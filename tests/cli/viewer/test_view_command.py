"""`meshcritic view` in a process of its own, and in a real browser."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from cli.commands import view as view_module
from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.run_files import write_critique
from tests.cli.viewer.test_catalogue import ANSWER, save_group, save_photo
from tests.command import call
from tests.processes import start_python

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
MAX_SCREENSHOTS = 30
WAIT_MS = 120_000  # software rendering on a busy machine


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output folder of a critique."""
    photo = save_photo(tmp_path / "photos" / "one.png")
    write_critique(save_group(tmp_path / "run" / "one-0.npz"), photo, ANSWER)
    return tmp_path / "run"


@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of the command, and the address that it prints."""
    process = start_python("-m", "meshcritic", "view", *words)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(
            r"open (http://127\.0\.0\.1:\d+/[\w-]{32}/) in a browser on this machine\n", line
        )
        assert found, line + process.stderr.read()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("{run}", "--against", "x"),
            r"--against is for photographs, for which bodies are sampled; .*run holds",
        ),
        (("{run}", "--focal", "100"), r"--focal is for photographs"),
        (("{photo}", "--photo", "{photo}"), r"--photo is for the bodies of a run or of a file"),
        (("{photo}", "--policy", "{run}"), r"run"),
        (("{run}/none.npz", "--photo", "{photo}"), r"no hypotheses file at .*none\.npz"),
        (("{run}", "--photo", "{run}"), r"there is no photograph one-0 or one in .*run"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(run: Path, monkeypatch, capsys, words, sentence: str):
    places = {"run": run, "photo": run.parent / "photos" / "one.png"}
    given = [word.format(**places) for word in words]
    code, out, err = call(monkeypatch, capsys, "view", *given)
    assert (code, out) == (2, "")
    assert re.search(sentence, err), err
    assert "Traceback" not in err


def test_without_viser_the_extra_is_named(run: Path, monkeypatch, capsys):
    monkeypatch.setattr(view_module, "find_spec", lambda name: None)
    code, _, err = call(monkeypatch, capsys, "view", run)
    assert (code, err) == (2, "meshcritic: meshcritic view needs viser: pip install 'meshcritic[view]'\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command(run: Path, number: signal.Signals):
    with serving(run) as (process, _):
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", f"meshcritic: stopped by {number.name}\n")


@contextmanager
def browser_page(url: str) -> Iterator:
    """The page in headless Chromium, once its panel is there, and the addresses that it asked for. Fails on an error of
    its scripts, and on what its Content-Security-Policy blocks."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium of the system (chromium, chromium-browser or google-chrome)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 700, "height": 400}, accept_downloads=True)
        page.set_default_timeout(WAIT_MS)
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda opened: asked.append(opened.url))
        page.goto(url)
        page.get_by_text("Download").wait_for()
        yield page, asked
        assert errors == []
        browser.close()


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def wait_for_colours(page, folder: Path, expected: set[str]) -> None:
    """Until the bodies left of the panel, before a white background, have the colours of low and high scores."""
    for _ in range(MAX_SCREENSHOTS):
        page.screenshot(path=folder / "page.png")
        canvas = np.asarray(Image.open(folder / "page.png").convert("RGB"))[:, :350].astype(int)
        red, green = canvas[..., 0], canvas[..., 1]
        found = {"red": (red - green > 50).sum() > 50, "teal": (green - red > 40).sum() > 50}
        if {name for name, there in found.items() if there} == expected:
            return
    raise AssertionError(f"{MAX_SCREENSHOTS} screenshots have {found}, not {expected}")


def download(page, kind: str, folder: Path) -> Path:
    choose(page, "Format", kind)
    with page.expect_download() as found:
        page.get_by_role("button", name="Download").click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_a_browser(run: Path, tmp_path: Path):
    """The page shows scores and comments of the selected hypothesis, and exports it; nothing comes from elsewhere."""
    with serving(run) as (_, url), browser_page(url) as (page, asked):
        assert page.get_by_text("one.png").is_visible()
        page.get_by_text("90.0").wait_for()  # the best hypothesis is selected
        assert page.get_by_text("Denoising step").count() == 0  # nothing was sampled
        hypothesis = page.locator("input[inputmode=decimal]").first
        hypothesis.fill("0")
        hypothesis.press("Enter")
        page.get_by_text("10.0").wait_for()
        page.get_by_label("Photograph").uncheck()
        wait_for_colours(page, tmp_path, {"red"})
        choose(page, "Group", "all in a row")
        wait_for_colours(page, tmp_path, {"red", "teal"})
        mesh = trimesh.load(download(page, "obj", tmp_path), process=False)
        group = download(page, "npz", tmp_path)
        own = url.replace("http", "", 1)
        assert all(own in address + "/" or address.startswith(("blob:", "data:")) for address in asked), asked
    ((_, found),) = read_hypotheses(group, (90, 120))
    ((_, expected),) = read_hypotheses(run / "one-0.npz", (90, 120))
    assert (group.name, len(mesh.vertices)) == ("one-0-h0.npz", 6902)
    np.testing.assert_array_equal(found.params.body_pose, expected.params.body_pose)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_policies_side_by_side_in_a_browser(tiny_policy, tmp_path: Path):
    """The slider of denoising steps and the names of both policies are there; steps can be chosen."""
    photo = save_photo(tmp_path / "one.png")
    for name in ("base", "aligned"):
        tiny_policy.save_pretrained(tmp_path / name)
    words = (photo, "--box", "5,5,85,115", "--accept-any-box", "--samples", 2, "--detector", "embedded")
    given = (*words, "--policy", tmp_path / "base", "--against", tmp_path / "aligned")
    with serving(*given) as (_, url), browser_page(url) as (page, _):
        page.get_by_text("Denoising step").wait_for()
        step = page.locator("input[inputmode=decimal]").nth(1)
        assert step.input_value() == "4"
        step.fill("1")
        step.press("Enter")
        choose(page, "Bodies of", str(tmp_path / "aligned"))
        path = download(page, "bvh", tmp_path)
    assert path.name.startswith("one-0-")
    assert path.name.endswith("aligned-step1-h0.bvh")
    assert path.read_text().startswith("HIERARCHY")
