"""Questions on the page of a trace: what was asked is shown where it was asked, and stays within its limits."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np

from agent.scoring.ask import keep_parts
from agent.tracing.parts import PartStore, parts_kept_in
from agent.vlm.protocol import DataPart, ImagePart, Part, TextPart
from eval.report.trace import questions
from hmr.images.crops import encode_png
from tests.eval.report.trace.test_page import ATTACK, REQUEST, Text, page, write_trace

INSTRUCTIONS = TextPart(f"Score the group. {ATTACK}")
EVIDENCE = DataPart("later_evidence", {}, "joint limits: 3.2 degrees")
FIRST, SECOND = (
    ImagePart(encode_png(np.full((224, 448, 3), shade, np.uint8)), f"hypothesis {label} {ATTACK}")
    for label, shade in (("A", 90), ("B", 160))
)
REPAIR = TextPart("Your previous reply did not fit the schema.")


def asked(*parts: Part, **more: object) -> dict:
    return {**REQUEST, "parts": [part.sha256 for part in parts], "text": "{}", **more}


def a_run(folder: Path, *kept: Part) -> Path:
    """Three questions: the first has two pictures, the second repairs it, the third has one of the pictures."""
    replies = [
        asked(INSTRUCTIONS, FIRST, SECOND, EVIDENCE, malformed="no object"),
        asked(INSTRUCTIONS, FIRST, SECOND, EVIDENCE, REPAIR),
        asked(INSTRUCTIONS, FIRST, EVIDENCE, task="reflect"),
    ]
    write_trace(folder, steps=[("score", {"scores": {}, "replies": replies})])
    with parts_kept_in(PartStore(folder / "parts", str)):
        keep_parts(kept)
    return folder


def test_each_question_has_its_pictures_and_texts(monkeypatch, capsys, tmp_path: Path):
    html = page(monkeypatch, capsys, a_run(tmp_path, INSTRUCTIONS, FIRST, SECOND, EVIDENCE, REPAIR))
    assert Text(html)
    first, repair, third = (
        html.split('<details class="inner"><summary>score ')[1:2]
        + re.split(r'<details class="inner"><summary>(?:score \(repair\)|reflect) ', html)[1:]
    )
    shown = re.findall(r'<use href="#(\w+)"', first.split("(repair)")[0])
    assert len(shown) == 2
    assert "<use" not in repair
    assert "Your previous reply did not fit" in repair
    assert re.findall(r'<use href="#(\w+)"', third) == shown[:1]
    assert html.count("data:image/jpeg;base64,") == 2  # once each
    assert all(f'<image id="{name}"' in html for name in shown)
    assert unescape(html).count(f"Score the group. {ATTACK}") == 1
    assert "later evidence" in first
    assert re.findall(r'(?:instructions|later evidence): <a href="#(c1-\w+)">', third) == re.findall(
        r'<summary>(?:instructions|later evidence) .*?<pre id="(c1-\w+)">', first
    )
    assert "of them by hash" not in html


def test_what_was_not_kept_is_named_by_hash(monkeypatch, capsys, tmp_path: Path):
    html = page(monkeypatch, capsys, a_run(tmp_path, INSTRUCTIONS, FIRST))
    assert html.count("4 parts, 2 of them by hash") == 1
    assert SECOND.sha256[:8] in html
    assert '<svg class="shared"' in html
    assert '<svg class="shared"' not in page(monkeypatch, capsys, a_run(tmp_path / "other"))


def test_words_of_a_trace_are_no_paths_and_links_are_not_followed(monkeypatch, capsys, tmp_path: Path):
    run = a_run(tmp_path / "run")
    (tmp_path / "secret.txt").write_text("a secret")
    (run / "parts" / f"{EVIDENCE.sha256}.txt").symlink_to(tmp_path / "secret.txt")
    (run / "parts" / f"{FIRST.sha256}.jpg").write_text("no picture")
    replies = [{**REQUEST, "parts": ["../../secret", str(tmp_path / "secret"), ""]}]
    write_trace(run, steps=[("score", {"scores": {}, "replies": replies})])
    html = page(monkeypatch, capsys, run)
    assert "a secret" not in html
    assert "3 of them by hash" in html
    linked = a_run(tmp_path / "linked")
    (linked / "parts").rmdir()
    (linked / "parts").symlink_to(a_run(tmp_path / "whole", INSTRUCTIONS) / "parts")
    assert "Score the group" not in page(monkeypatch, capsys, linked)


def test_pictures_and_texts_are_bounded(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setattr(questions, "MAX_PICTURES_BYTES", 5_000)  # one of the panels takes 3,087
    monkeypatch.setattr(questions, "MAX_CHARS", 20)
    html = page(monkeypatch, capsys, a_run(tmp_path, INSTRUCTIONS, FIRST, SECOND, EVIDENCE, REPAIR))
    assert html.count("data:image/jpeg;base64,") == 1
    assert "1 of them by hash" in html
    assert f"the rest is in {INSTRUCTIONS.sha256}.txt" in html
    assert ATTACK not in unescape(html).replace(f"hypothesis A {ATTACK}", "")
