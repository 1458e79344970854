"""The report is self-contained and escaped, holds every hypothesis of a case, and has the sections of its content."""

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from agent.types import (
    Correction,
    ErrorEstimate,
    Evidence,
    GroupCritique,
    Missing,
    RetrievedPrototype,
    Revision,
)
from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS, PROTOCOL, ScoredGroup
from eval.benchmark.tables import Row
from eval.critics.agreement import critic_agreement
from eval.report.run import (
    Change,
    PictureSize,
    Progress,
    ReportCase,
    ReportData,
    alignment_charts,
    draw_case,
    draw_person,
    paired_chart,
    picture_size,
    with_replies,
    write_report,
)
from eval.report.run.data import HypothesisPictures
from eval.report.run.strips import interval_strip
from eval.report.svg import Axis
from eval.report.trace.requests import requests_of
from hmr.body.model import load_body
from hmr.render import load_renderer
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample
from memory.prototype_memory import Prototype
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RetrievedRule

ATTACK = '<script src="https://example.org/x.js">alert(1)</script>'
REQUEST = {
    "task": "score",
    "backend": "openai:m r1",
    "prompt": "9201",
    "parts": ["01"],
    "tokens": [1530, 211],
}
LOG = [
    {"step": 20, "loss": 1.5, "kl": float("nan"), "spread_visible_mm": 90.0},
    {"step": 40, "loss": 1.25, "spread_visible_mm": 80.0},
]
SCORES = (80.0, None, 20.0)
ERRORS_MM = (50.0, 90.0, 120.0)


def critique() -> GroupCritique:
    rule = Rule.create(
        "A knee bends one way.", ["legs"], Provenance("seed", "embedded", None), Predicate("m", ">", 5.0, 1.0)
    )
    rule = dataclasses.replace(rule, uses=8, successes=6)
    prototype = Prototype("p", "c", "The feet hide.", 71.0, ("feet",), {"m": 1.0}, {"m": 0.5})
    return GroupCritique(
        sample_id="a",
        scores=SCORES,
        comments=("fits well", "unjudged", ATTACK),
        tags=("legs",),
        rank_dispersion=0.5,
        evidence=(
            Evidence("keypoints", "offset_px", "px", (2.5, None, 9.0), ((), (), ("hand",)), ("a", "", "b")),
            Evidence("limits", "excess_deg", "deg", (0.0, 0.0, 0.0), ((), (), ()), ("in range",) * 3),
            Evidence("keypoints", "offset_px", "px", (2.4, None, 9.5), ((), (), ("hand",)), ("a", "", "b")),
        ),
        missing=(Missing("ground_contact", "no ground in sight"),),
        rules=(RetrievedRule(rule, 0.4, 0.5, 0.75, 0.0, 1.65),),
        prototypes=(RetrievedPrototype(prototype, 0.91),),
        revisions=(Revision((2,), (40.0,), (20.0,), "evidence disagreed"),),
        reasons=("h1: no such label",),
        errors=ErrorEstimate((51.0, 90.0, 130.0), (30.0, 60.0, 90.0), (80.0, 120.0, 170.0), 0.8, None, False),
        corrections=(Correction((0,), (60.0,), (80.0,), "hands count"),),
    )


def webp(gray: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(buffer, "WEBP")
    return buffer.getvalue()


def case(errors_mm: tuple[float, ...] | None = ERRORS_MM, title: str = "Image a") -> ReportCase:
    pictures = tuple(HypothesisPictures(webp(20 * index), webp(200)) for index in range(3))
    record = {"outputs": {"replies": [{**REQUEST, "text": f'{{"A": "{ATTACK[:7]}"}}', "ms": 12.0}]}}
    return ReportCase(title, critique(), webp(90), pictures, errors_mm, tuple(requests_of(record)))


def full_data() -> ReportData:
    change = Interval(-12.34, -14.0, -10.0)
    rows = tuple(
        Row(
            metric,
            "hyp0",
            {
                "base": Interval(150.0, 140.0, 160.0),
                "aligned": Interval(137.7, 130.0, 145.0),
                "shuffled": None,
            },
            {"aligned": change, "shuffled": None},
        )
        for metric in ERROR_METRICS
    )
    group = ScoredGroup("a", (3.0, 2.0, 1.0), {metric: np.array(ERRORS_MM) for metric in ERROR_METRICS})
    by_image = {"base": np.array([100.0, 200.0]), "aligned": np.array([90.0, 180.0])}
    return ReportData(
        "A run",
        {"seeds": "0"},
        {"torch": "2"},
        rows=rows,
        charts=(paired_chart(by_image, ("a", "b"), "MPJPE(h_0)"), *alignment_charts({"aligned": LOG})),
        critic=critic_agreement([group]),
        cases=(case(),),
        rules=(critique().rules[0].rule,),
        protocol=PROTOCOL,
        notes=("Not SMPL.",),
    )


def page(tmp_path: Path, data: ReportData) -> str:
    write_report(tmp_path / "report.html", data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def elements(html: str, kind: str) -> dict[str, Any]:
    """The JSON elements whose id starts with `kind`."""
    found = re.findall(rf'<script type="application/json" id="({kind}[^"]*)">(.*?)</script>', html, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def text_of(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(gzip.decompress(base64.b64decode(content["text"])))


def test_the_page_allows_no_request_and_only_its_own_scripts(tmp_path: Path) -> None:
    html = page(tmp_path, full_data())
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:;")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    directive = re.findall(r"script-src ([^;]*)", policy)[0]
    assert len(directive.split()) == 2
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", markup)
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)


def test_text_of_models_cannot_end_the_element_that_holds_it(tmp_path: Path) -> None:
    hostile = dataclasses.replace(case(), title=ATTACK)
    html = page(tmp_path, dataclasses.replace(full_data(), title=ATTACK, cases=(hostile,)))
    assert ATTACK not in html
    assert (
        html.count("<script") == len(re.findall(r"</script>", html)) == 2 + 3
    )  # two scripts; charts, list, case
    assert elements(html, "cases-data")["cases-data"][0]["title"] == ATTACK
    assert text_of(elements(html, "case-data")["case-data-0"])["hypotheses"][2]["comment"] == ATTACK


def test_the_page_shows_the_results_of_the_run(tmp_path: Path) -> None:
    text = unescape(page(tmp_path, full_data()))
    for words in (
        "MPJPE(h_0), zero noise",
        "\N{MINUS SIGN}12.3",
        "± 2.0",
        "A knee bends one way.",
        "Not SMPL.",
        PROTOCOL["alignment"].split(";")[0],
    ):
        assert words in text, words


def test_a_case_holds_everything_that_is_known_of_it(tmp_path: Path) -> None:
    html = page(tmp_path, full_data())
    (summary,) = elements(html, "cases-data")["cases-data"]
    assert summary["scores"] == list(SCORES)
    assert summary["errors_mm"] == list(ERRORS_MM)
    assert summary["excess_mm"] == 0.0  # the best score has the smallest error of the two that are scored
    assert summary["flags"] == ["revised", "corrected", "unscored"]
    content = elements(html, "case-data")["case-data-0"]
    assert [base64.b64decode(picture) for picture in content["layers"]] == [webp(0), webp(20), webp(40)]
    assert len(content["sides"]) == 3
    text = text_of(content)
    assert text["hypotheses"][2]["expected_mm"] == [130.0, 90.0, 170.0]
    assert [item["is_repeated"] for item in text["evidence"]] == [False, False, True]
    assert text["evidence"][0]["texts"] == ["2.5 px", "-", "9 px"]
    assert text["evidence"][1]["sentences"] == ["in range"]
    assert text["rules"] == [
        {"text": "A knee bends one way.", "terms": [0.4, 0.5, 0.75, 0.0, 1.65], "uses": 8, "successes": 6}
    ]
    assert text["prototypes"] == [{"similarity": 0.91, "score": 71.0, "text": "The feet hide."}]
    assert [(item["before"], item["after"]) for item in text["revisions"]] == [
        ([40.0], [20.0]),
        ([60.0], [80.0]),
    ]
    assert text["missing"] == [{"name": "ground_contact", "text": "no ground in sight"}]
    assert text["reasons"] == ["h1: no such label"]
    assert text["replies"][0]["about"] == "openai:m r1 · prompt 9201 · 12 ms · tokens 1,530 in, 211 out"


def test_the_worst_disagreement_comes_first(tmp_path: Path) -> None:
    scored = dataclasses.replace(critique(), scores=(80.0, 50.0, 20.0))
    cases = tuple(
        dataclasses.replace(case(errors), title=title, critique=scored)
        for title, errors in (
            ("right", (1.0, 2.0, 3.0)),
            ("unknown", None),
            ("wrong", (3.0, 2.0, 1.0)),
            ("half", (2.0, 1.0, 3.0)),
        )
    )
    summaries = elements(page(tmp_path, ReportData("A", {}, {}, cases=cases)), "cases-data")["cases-data"]
    assert [item["title"] for item in summaries] == ["wrong", "half", "right", "unknown"]
    assert [item["spearman"] for item in summaries] == [-1.0, 0.5, 1.0, None]
    assert [item["excess_mm"] for item in summaries] == [2.0, 1.0, 0.0, None]


def test_a_report_without_truth_has_no_tables(tmp_path: Path) -> None:
    html = page(tmp_path, ReportData("A photo", {}, {}, cases=(case(errors_mm=None),)))
    assert "Before and after" not in html
    assert "Rule memory" not in html
    assert "worst disagreement first" not in html
    assert "There is no truth of these images" in html
    assert elements(html, "cases-data")["cases-data"][0]["errors_mm"] is None


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    html = page(tmp_path, ReportData("A run", {}, {}, progress=Progress(3, f"aligning {ATTACK}", 12)))
    assert "Stage 3 of 12 is running" in html
    assert "reload it" in html
    assert ATTACK not in html
    assert "is running" not in page(tmp_path, ReportData("A run", {}, {}))


def test_charts_have_a_line_per_variant_and_no_value_that_is_not_finite() -> None:
    charts = {
        chart.title: chart for chart in alignment_charts({"aligned": LOG, "labels": LOG[:1], "broken": []})
    }
    assert set(charts) == {"Training loss", "Spread of the samples"}  # kl is NaN, nothing else was logged
    assert alignment_charts({"labels": LOG[:1]}) == ()  # a point is no curve
    assert [(line.name, line.key, line.x, line.y) for line in charts["Training loss"].lines] == [
        ("aligned", "aligned", [20.0, 40.0], [1.5, 1.25]),
        ("labels", "labels", [20.0], [1.5]),
    ]
    paired = paired_chart(
        {"base": np.array([1.0, 2.0]), "aligned": np.array([0.5, 3.0])}, ("a", "b"), "MPJPE"
    )
    (line,) = paired.lines
    assert (line.x, line.y, line.labels) == ([1.0, 2.0], [0.5, 3.0], ("a", "b"))
    assert paired.x_label == "base, MPJPE (mm)"


def test_replies_come_from_the_trace(tmp_path: Path) -> None:
    records = [
        {
            "trace": trace,
            "case": "a",
            "node": "score",
            "ms": 1.0,
            "outputs": {"replies": [{**REQUEST, "text": text}]},
        }
        for trace, text in (("t1", "one"), ("t2", "two"), ("t1", "three"))
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, records)) + "\nnot a record\n")
    traced = [
        dataclasses.replace(case(), critique=dataclasses.replace(critique(), trace_id=name))
        for name in ("t1", "gone")
    ]
    found = with_replies(traced, tmp_path / "trace.jsonl")
    assert [[reply.text for reply in item.replies] for item in found] == [["one", "three"], []]


def test_strips_place_intervals_by_value() -> None:
    changes = {"aligned": Interval(-5.0, -8.0, -2.0), "shuffled": Interval(5.0, 2.0, 8.0), "labels": None}
    svg = ElementTree.fromstring(interval_strip(changes, -10.0, 10.0))
    left, right = (float(circle.get("cx", 0)) for circle in svg.iter("circle"))
    zero = next(float(line.get("x1", 0)) for line in svg.iter("line") if line.get("class") == "zero")
    assert zero - left == pytest.approx(right - zero, abs=0.2)
    assert left < zero


@pytest.mark.parametrize("span", [0.7, 12.0, 340.0])
def test_ticks_are_few_and_round(span: float) -> None:
    ticks = Axis(0.0, span, 0.0, 100.0).ticks()
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0.0
    mantissas = {f"{ticks[1] - ticks[0]:e}"[0]}
    assert mantissas <= {"1", "2", "5"}


def test_a_case_is_drawn_with_all_its_hypotheses() -> None:
    camera = Camera(200.0, 50.0, 50.0, 100, 100)
    image = np.full((100, 100, 3), 200, np.uint8)
    sample = Sample("a", image, Box(25.0, 10.0, 75.0, 90.0), camera)
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(3, 1)
    places = torch.tensor([[0.0, 0.0, 5.0], [0.4, 0.0, 5.0], [0.0, 0.0, 5.0]])
    params = BodyParams(upright, torch.zeros(3, 23, 3), torch.zeros(3, 10), places)
    drawn = draw_case(
        "Image a", sample, Hypotheses(params, camera), critique(),
        body=load_body(), renderer=load_renderer(), errors_mm=ERRORS_MM, size=PictureSize(64, 48, 80),
    )  # fmt: skip
    assert Image.open(io.BytesIO(drawn.photo)).size == (64, 64)
    layers = [np.asarray(Image.open(io.BytesIO(pictures.layer))) for pictures in drawn.pictures]
    opaque = [layer[..., 3] > 128 for layer in layers]
    assert all(0.02 < body.mean() < 0.6 for body in opaque)  # a body, neither nothing nor everything
    assert opaque[0][24:40, 24:40].any()
    assert not opaque[0][:, :4].any()
    across = [np.argwhere(body)[:, 1].mean() for body in opaque]
    assert across[1] > across[0] + 3  # the second body stands farther to the right
    assert across[2] == across[0]
    assert Image.open(io.BytesIO(drawn.pictures[0].side)).size == (48, 48)


def test_a_report_of_many_hypotheses_has_smaller_pictures() -> None:
    assert picture_size(300 * 20).overlay < picture_size(12 * 12).overlay


def test_people_are_shown_before_and_after_with_their_measures(tmp_path: Path) -> None:
    camera = Camera(200.0, 50.0, 50.0, 100, 100)
    sample = Sample("a", np.full((100, 100, 3), 200, np.uint8), Box(25.0, 10.0, 75.0, 90.0), camera)
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(2, 1)
    places = torch.tensor([[0.0, 0.0, 5.0], [0.4, 0.0, 5.0]])
    bodies = BodyParams(upright, torch.zeros(2, 23, 3), torch.zeros(2, 10), places)
    person = draw_person(ATTACK, sample, bodies, load_body(), load_renderer(), ("3 %", "4 %"))
    layers = [np.asarray(Image.open(io.BytesIO(one.layer))) for one in (person.before, person.after)]
    drawn = [np.argwhere(layer[..., 3] > 128)[:, 1].mean() for layer in layers]
    assert drawn[1] > drawn[0] + 5  # the second body stands farther to the right
    changes = (
        Change("held out", "spread, mm", 3, 80.0, 70.0, Interval(-10.0, -12.0, -8.0)),
        Change("aligned on", "spread, mm", 1, 80.0, 81.0, None),
    )
    html = page(tmp_path, ReportData("Photos", {}, {}, changes=changes, people=(person,)))
    text = unescape(html)
    for words in (
        "-10.00",
        "-12.00 to -8.00",
        "+1.00",
        "Before alignment",
        "4 %",
        "Measures before and after",
    ):
        assert words in text, words
    assert ATTACK not in html
    assert len(re.findall(r'src="data:image/webp;base64,', html)) == 7
    assert "Measures before and after" not in page(tmp_path, ReportData("Photos", {}, {}))
