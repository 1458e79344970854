"""The page of a trace loads nothing, shows all of a critique, escapes everything, and is bounded."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.storage.jsonl import open_for_append
from eval.report.trace import page as trace_page
from eval.report.trace.graph_figure import NodeRun, graph_figure
from eval.report.trace.pictures import PictureIndex, record_pictures
from tests.command import call

ATTACK = '"><script src="https://example.org/x.js">alert(1)</script><img src=x onerror=alert(1)>'
VOID = {"meta", "img", "br", "rect", "line", "path"}
REQUEST = {
    "task": "score", "backend": "openai:m r1", "prompt": "9201abc1f14e", "seed": 0, "parts": ["0123456789abcdef"],
    "started": 1.0, "ms": 812.4, "tokens": [1530, 211], "retries": 0, "cached": False,
}  # fmt: skip
MEASURED = {
    "tool": "reprojection", "metric": "reprojection_px", "unit": "px", "values": [9.5, 2.5, None],
    "parts": [[], [], []], "sentences": ["the arm is off", "all is well", ""],
}  # fmt: skip
RULE = {
    "text": f"A knee bends one way. {ATTACK}", "similarity": 0.4, "tag_overlap": 0.5, "successes": 6, "uses": 8,
    "success_rate": 0.75, "bonus": 0.21, "psi": 1.86,
}  # fmt: skip
SCORED = {
    "scores": {"0": 80.0, "1": 60.0, "2": None},
    "comments": {"0": ATTACK, "1": "fits"},
    "reasons": {"2": "no label C in the reply"},
    "replies": [
        {
            **REQUEST,
            "text": '{"A": {"score": 80}}',
            "thinking": f"first the arm {ATTACK}",
            "finish": "length",
        },
        {**REQUEST, "error": f"openai:m failed: {ATTACK}"},
    ],
    "failures": [{"kind": "unavailable", "reason": f"gone {ATTACK}", "task": "score"}],
    "questions": {"asked": 2, "answered": 1, "repaired": 0, "lost": 1},
}
REVISED = {
    "scores": {"0": 50.0},
    "comments": {"0": "the arm is bent"},
    "revisions": [
        {
            "hypotheses": [0],
            "before": [80.0],
            "after": [50.0],
            "reason": "its rank moves",
            "evidence_used": ["x_mm"],
        }
    ],
}
STEPS: list[tuple[str, dict[str, Any]]] = [
    ("measure_evidence", {"evidence": [MEASURED], "missing": [{"tool": "ground", "reason": "no ground in sight"}]}),
    ("retrieve_rules", {"tags": [ATTACK], "rules": [RULE]}),
    ("retrieve_prototypes", {"prototypes": [{"similarity": 0.91, "score": 71.0, "rationale": "The feet hide."}]}),
    ("score", SCORED),
    ("self_reflect", {"uncertain": {"0": "ranked 1, but 2 by the new measurements"}, "score_evidence": []}),
    ("revise", REVISED),
    ("self_reflect", {"uncertain": {}, "score_evidence": []}),
]  # fmt: skip


def write_trace(run: Path, critiques: int = 1, steps: list[tuple[str, dict[str, Any]]] = STEPS) -> Path:
    with open_for_append(run / "trace.jsonl") as file:
        for number in range(critiques):
            for node, outputs in steps:
                about = {
                    "run": "",
                    "trace": f"t{number}",
                    "case": f"case-{number}",
                    "node": node,
                    "started": 1.0,
                }
                file.write(json.dumps({**about, "ms": 120.0, "inputs": {}, "outputs": outputs}) + "\n")
    return run


def page(monkeypatch, capsys, run: Path, *options: object) -> str:
    html = run / "pages" / "trace.html"
    code, out, err = call(monkeypatch, capsys, "trace", run, "--html", html, *options)
    assert (code, out) == (0, ""), err
    return html.read_text(encoding="utf-8")


class Text(HTMLParser):
    """Collects the text, and checks that elements are nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_and_untrusted_text_stays_text(monkeypatch, capsys, tmp_path: Path):
    html = page(monkeypatch, capsys, write_trace(tmp_path))
    parsed = Text(html)
    assert "script" not in parsed.names
    assert "img" not in parsed.names  # no picture in this run, and none of the attack
    assert "default-src 'none'" in html
    references = re.findall(r"""<[^>]*\b(?:src|href)\s*=\s*["']?([^"'\s>]+)""", html)
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert "url(" not in html.split("</style>")[0]
    assert "@import" not in html
    assert "".join(parsed.text).count(ATTACK) >= 6  # comment twice, rule, tag, thinking, error, failure


def test_every_part_of_a_critique_is_on_the_page(monkeypatch, capsys, tmp_path: Path):
    text = unescape(page(monkeypatch, capsys, write_trace(tmp_path)))
    for words in (
        "no ground in sight", "the arm is off", "9.5 px", "A knee bends one way.", "0.40 + 0.50", "6/8", "0.75 + 0.21",
        "1.86", "The feet hide.", "0.910", "no label C in the reply", "first the arm", '"score": 80', "ended by length",
        "1,530 in, 211 out", "ranked 1, but 2 by the new measurements", "its rank moves", "x_mm", "was 80.0",
        "1 → 2", "2 → 1", "1 of 2", "01234567", "The run has no picture of this critique", "self_reflect x 2",
    ):  # fmt: skip
        assert words in text, words
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_last_cases_are_shown_with_links_to_each(monkeypatch, capsys, tmp_path: Path):
    html = page(monkeypatch, capsys, write_trace(tmp_path, critiques=5), "--cases", 3)
    assert [name for name in map("case-{}".format, range(5)) if name in html] == [
        "case-2",
        "case-3",
        "case-4",
    ]
    assert "The last 3 of 5 critiques" in html
    assert set(re.findall(r'href="#(\w+)"', html)) == {"top", "c1", "c2", "c3"}
    assert all(f'id="c{number}"' in html for number in (1, 2, 3))
    one = page(monkeypatch, capsys, tmp_path, "--case", "case-1")
    assert "case-1" in one
    assert "case-2" not in one


def test_the_page_is_bounded(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setattr(trace_page, "MAX_STEPS", 3)
    monkeypatch.setattr("eval.report.trace.requests.MAX_CHARS", 50)
    monkeypatch.setattr(trace_page, "MAX_REQUESTS", 2)
    long = {"scores": {}, "replies": [{**REQUEST, "text": "y" * 60}] * 3}
    html = page(monkeypatch, capsys, write_trace(tmp_path, steps=[("score", long), *STEPS]))
    assert html.count("y" * 50) == 2
    assert "y" * 51 not in html
    assert "10 more characters are in trace.jsonl" in html
    assert "5 more steps are in trace.jsonl" in html


def test_pictures_of_the_run_are_inside_the_page(monkeypatch, capsys, tmp_path: Path):
    write_trace(tmp_path, critiques=2)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((900, 2400, 3), 90, np.uint8)).save(tmp_path / name)
    record_pictures(tmp_path, "t0", {"a.png": "of an older critique", "b.png": "still the first one's"})
    record_pictures(tmp_path, "t1", {"a.png": ATTACK})
    html = page(monkeypatch, capsys, tmp_path)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert list(map(unescape, captions)) == ["still the first one's", ATTACK]
    assert html.count("data:image/jpeg;base64,") == 2
    assert len(html) < 200_000  # 2400 pixels wide on the disk
    assert "has no picture" not in html


def test_files_that_are_no_pictures_of_the_run_are_left_out(tmp_path: Path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "good.png")
    run = tmp_path / "run"
    run.mkdir()
    (run / "text.png").write_text("no picture")
    (run / "link.png").symlink_to(tmp_path / "good.png")
    captions = {"text.png": "", "link.png": "", "../good.png": "", "gone.png": ""}
    record_pictures(run, "t", captions)
    with (run / "pictures.jsonl").open("a") as file:
        file.write('[1]\n{"trace": 1}\n{"tra')
    assert PictureIndex(run).of("t") == []
    record_pictures(run, "t", {"after.png": "an incomplete line is removed"})
    assert (run / "pictures.jsonl").read_text().count("\n") == 4


def test_a_large_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eval.report.trace.pictures.MAX_PIXELS", 15)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "large.png")
    record_pictures(tmp_path, "t", {"large.png": ""})
    assert PictureIndex(tmp_path).of("t") == []


def test_records_of_another_shape_are_shown(monkeypatch, capsys, tmp_path: Path):
    odd = [
        {"scores": 3, "comments": [1], "replies": {"a": 1}},
        {"evidence": [{"metric": 1}]},
        {"scores": {"0": "x"}},
    ]
    html = page(monkeypatch, capsys, write_trace(tmp_path, steps=[("score", outputs) for outputs in odd]))
    assert Text(html)


def test_the_figure_has_every_node_once_and_the_steps_that_lead_back():
    runs = [
        NodeRun(name, 10.0) for name in ("score", "reflect", "revise", "reflect", "revise", "reflect", "end")
    ]
    svg = graph_figure(runs)
    assert svg.count('class="node"') == 4
    assert "reflect x 3" in svg
    assert "30 ms" in svg
    assert svg.count("x 2</text>") == 2  # `revise x 2` in its box, and the curve back to `reflect`
    assert "<b>" not in graph_figure([NodeRun("<b>", 0.0)])


def test_a_page_needs_a_trace_and_a_file(monkeypatch, capsys, tmp_path: Path):
    for words, said in (
        (("--html", tmp_path), "takes a new or an existing file"),
        (("--html", tmp_path / "x.html"), "there is no trace here"),
        (("--html", tmp_path / "trace.jsonl"), "--html writes a page, whose name ends in .html"),
    ):
        code, _, err = call(monkeypatch, capsys, "trace", tmp_path, *words)
        assert code == 2
        assert said in err
    write_trace(tmp_path)
    code, _, err = call(monkeypatch, capsys, "trace", tmp_path, "--html", tmp_path / "x.html", "--case", "z")
    assert (code, "has no case 'z'" in err) == (2, True)
    assert not (tmp_path / "x.html").exists()
