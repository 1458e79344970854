"""The report page is self-contained and escaped, and has the sections for which a run has content."""

import dataclasses
import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from agent.types import GroupCritique, Missing, RetrievedPrototype, Revision
from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS, PROTOCOL, ScoredGroup
from eval.benchmark.tables import Row
from eval.critics.agreement import critic_agreement
from eval.report import (
    Change,
    ReportCase,
    ReportData,
    ShownHypothesis,
    draw_case,
    draw_person,
    figures,
    write_report,
)
from eval.report.page import best_and_worst
from eval.report.svg import Axis
from hmr.body.model import load_body
from hmr.render import load_renderer
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample
from memory.prototype_memory import Prototype
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RetrievedRule

ATTACK = '<script src="https://example.org/x.js">alert(1)</script>'
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
        evidence=(),
        missing=(Missing("ground_contact", "no ground in sight"),),
        rules=(RetrievedRule(rule, 0.4, 0.5, 0.75, 0.0, 1.65),),
        prototypes=(RetrievedPrototype(prototype, 0.91),),
        revisions=(Revision((2,), (40.0,), (20.0,), "evidence disagreed"),),
        reasons=("h1: no such label",),
    )


def case(errors_mm: tuple[float, ...] | None = ERRORS_MM) -> ReportCase:
    picture = np.full((8, 8, 3), 90, np.uint8)
    shown = tuple(
        ShownHypothesis(index, role, picture, picture) for index, role in ((0, "best"), (2, "worst"))
    )
    return ReportCase("Image a", picture, critique(), shown, errors_mm)


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
        by_image=by_image,
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


def test_the_page_loads_nothing_and_has_no_script(tmp_path: Path) -> None:
    html = page(tmp_path, full_data())
    references = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert references
    assert all(
        reference.startswith("data:image/jpeg;base64,")
        for reference in references
        if "example" not in reference
    )
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert "&lt;script src=" in html  # a comment's markup stays text


def test_the_page_shows_the_results_of_the_run(tmp_path: Path) -> None:
    text = unescape(page(tmp_path, full_data()))
    for words in (
        "MPJPE(h_0), zero noise",
        "\N{MINUS SIGN}12.3",
        "± 2.0",
        "best hypothesis over the photograph",
        "true MPJPE 50 mm",
        "A knee bends one way.",
        "8 · 6",
        "The feet hide.",
        "h2: 40 → 20",
        "no ground in sight",
        "h1: no such label",
        "Not SMPL.",
        PROTOCOL["alignment"].split(";")[0],
    ):
        assert words in text, words


def test_a_report_without_truth_has_no_tables(tmp_path: Path) -> None:
    html = page(tmp_path, ReportData("A photo", {}, {}, cases=(case(errors_mm=None),)))
    assert "Before and after" not in html
    assert "Rule memory" not in html
    assert "true MPJPE" not in html
    assert "Scores of the whole group." in html


def test_figures_are_xml_and_place_points_by_value() -> None:
    svg = ElementTree.fromstring(figures.score_error_scatter(SCORES, ERRORS_MM, {0: "best", 2: "worst"}))
    points = {point.get("class"): point for point in svg.iter("circle")}
    assert set(points) == {"point best", "point worst"}  # a hypothesis without a score has no place
    best, worst = points["point best"], points["point worst"]
    assert float(best.get("cx", 0)) > float(worst.get("cx", 0))
    assert float(best.get("cy", 0)) > float(worst.get("cy", 0))  # less error lies lower: y grows downwards


def test_the_paired_scatter_puts_equal_errors_on_the_diagonal() -> None:
    svg = ElementTree.fromstring(
        figures.paired_scatter([100.0, 200.0], [100.0, 150.0], "MPJPE", "aligned", size=360.0)
    )
    equal, lower = svg.iter("circle")
    diagonal = next(line for line in svg.iter("line") if line.get("class") == "diagonal")
    x1, y1, x2, y2 = (float(diagonal.get(key, 0)) for key in ("x1", "y1", "x2", "y2"))

    def above(circle: ElementTree.Element) -> float:
        x, y = float(circle.get("cx", 0)), float(circle.get("cy", 0))
        return (y1 + (x - x1) / (x2 - x1) * (y2 - y1)) - y

    assert above(equal) == pytest.approx(0.0, abs=0.2)
    assert above(lower) < -10


@pytest.mark.parametrize("span", [0.7, 12.0, 340.0])
def test_ticks_are_few_and_round(span: float) -> None:
    ticks = Axis(0.0, span, 0.0, 100.0).ticks()
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0.0
    mantissas = {f"{ticks[1] - ticks[0]:e}"[0]}
    assert mantissas <= {"1", "2", "5"}


def test_best_and_worst() -> None:
    assert best_and_worst([3.0, None, 9.0, 9.0, 1.0]) == {2: "best", 4: "worst"}
    assert best_and_worst([None, 4.0]) == {1: "best"}
    assert best_and_worst([None, None]) == {}


def test_a_case_is_drawn_over_its_photograph() -> None:
    camera = Camera(200.0, 50.0, 50.0, 100, 100)
    image = np.full((100, 100, 3), 200, np.uint8)
    sample = Sample("a", image, Box(25.0, 10.0, 75.0, 90.0), camera)
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(3, 1)
    params = BodyParams(
        upright, torch.zeros(3, 23, 3), torch.zeros(3, 10), torch.tensor([[0.0, 0.0, 5.0]]).repeat(3, 1)
    )
    tools = {"body": load_body(), "renderer": load_renderer(), "size": 64}
    drawn = draw_case("Image a", sample, Hypotheses(params, camera), critique(), **tools)
    assert [(shown.index, shown.role) for shown in drawn.shown] == [(0, "best"), (2, "worst")]
    changed = (drawn.shown[0].overlay != drawn.photo).any(axis=-1)
    assert 0.02 < changed.mean() < 0.6  # a body, neither nothing nor everything
    assert changed[24:40, 24:40].any()
    assert not changed[:, :4].any()
    failed = dataclasses.replace(critique(), scores=(None, None, None))
    assert draw_case("a", sample, Hypotheses(params, camera), failed, **tools).shown == ()


def test_people_are_shown_before_and_after_with_their_measures(tmp_path: Path) -> None:
    camera = Camera(200.0, 50.0, 50.0, 100, 100)
    sample = Sample("a", np.full((100, 100, 3), 200, np.uint8), Box(25.0, 10.0, 75.0, 90.0), camera)
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(2, 1)
    places = torch.tensor([[0.0, 0.0, 5.0], [0.4, 0.0, 5.0]])
    bodies = BodyParams(upright, torch.zeros(2, 23, 3), torch.zeros(2, 10), places)
    person = draw_person(ATTACK, sample, bodies, load_body(), load_renderer(), ("3 %", "4 %"), size=64)
    drawn = [
        np.argwhere((view != person.photo).any(axis=-1))[:, 1].mean()
        for view in (person.before[0], person.after[0])
    ]
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
    assert len(re.findall("data:image/jpeg;base64,", html)) == 5
    assert "Measures before and after" not in page(tmp_path, ReportData("Photos", {}, {}))
