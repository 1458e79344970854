"""The parts of questions beside a trace: what was asked can be read there, each part once, without secrets."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.context import CritiqueSettings
from agent.prompts import load_prompt
from agent.prompts.answers import TagAnswer
from agent.scoring.ask import ask, keep_parts
from agent.tracing.parts import PartStore, parts_kept_in
from agent.tracing.records import Trace
from agent.vlm.protocol import Capabilities, DataPart, ImagePart, TextPart
from hmr.images.crops import encode_png
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.tracing.test_traces import EmbeddedCritic

KEY = "sk-canary-0123456789"
PICTURE = ImagePart(encode_png(np.full((40, 60, 3), (200, 30, 30), np.uint8)), "hypothesis A")


class Looking(EmbeddedCritic):
    """The embedded critic with pictures in its questions."""

    capabilities = Capabilities(images=True)


def test_every_part_of_every_question_is_kept_once(tmp_path: Path):
    settings = CritiqueSettings(view_size_px=64, permutations=2)
    with Trace(tmp_path / "trace.jsonl", parts=tmp_path / "parts") as trace:
        make_agent(Looking(), trace=trace, settings=settings).critique(
            sample(), group(spoiled_group(group=3))
        )
    records = map(json.loads, (tmp_path / "trace.jsonl").read_text().splitlines())
    asked = [call for record in records for call in record["outputs"].get("replies", [])]
    assert len(asked) >= 4  # tags, two label orders, reflection
    hashes = {part for call in asked for part in call["parts"]}
    kept = {path.stem: path for path in (tmp_path / "parts").iterdir()}
    assert set(kept) == hashes
    texts = {path.read_text() for path in kept.values() if path.suffix == ".txt"}
    assert {load_prompt("score").text, load_prompt("reflect").text} <= texts
    assert any(text.startswith("<evidence>\n") for text in texts)
    assert {_caption(path) for path in kept.values() if path.suffix == ".jpg"} == {
        "the photograph", "hypothesis A", "hypothesis B", "hypothesis C",
    }  # fmt: skip


def _caption(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.info["comment"].decode()


def test_a_picture_is_the_one_that_was_sent_compressed(tmp_path: Path):
    with parts_kept_in(PartStore(tmp_path, str)):
        keep_parts([PICTURE])
    with Image.open(tmp_path / f"{PICTURE.sha256}.jpg") as kept:
        assert np.abs(np.asarray(kept, np.int16) - (200, 30, 30)).max() <= 4
        assert kept.size == (60, 40)
    with Image.open(io.BytesIO(PICTURE.png)) as sent:
        assert sent.format == "PNG"


def test_texts_are_redacted_and_what_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rule, known = DataPart("rules", [f"a rule with {KEY}"]), TextPart("known")
    with Trace(tmp_path / "trace.jsonl", parts=tmp_path / "parts") as trace:
        (tmp_path / "parts" / f"{known.sha256}.txt").write_text("kept before")
        with trace.case():
            keep_parts([rule, known])
    assert "a rule with [key]" in (tmp_path / "parts" / f"{rule.sha256}.txt").read_text()
    assert (tmp_path / "parts" / f"{known.sha256}.txt").read_text() == "kept before"


def test_nothing_is_kept_outside_a_case_or_without_a_folder(tmp_path: Path):
    with (
        Trace(tmp_path / "trace.jsonl", parts=tmp_path / "parts") as trace,
        Trace(tmp_path / "b.jsonl") as plain,
    ):
        keep_parts([PICTURE])
        with trace.case(), plain.case():
            keep_parts([PICTURE])
        with trace.case():
            keep_parts([PICTURE])
    assert len(list((tmp_path / "parts").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"trace.jsonl", "parts", "b.jsonl"}


def test_a_folder_that_cannot_be_written_ends_the_critique_and_is_no_failure_of_the_backend(tmp_path: Path):
    store = PartStore(tmp_path / "parts", str)
    (tmp_path / "parts").rmdir()
    with parts_kept_in(store), pytest.raises(OSError, match="parts"):
        ask(EmbeddedCritic(), "tag", [TextPart("which?")], TagAnswer, 0)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        Trace(tmp_path / "trace.jsonl", parts=tmp_path / "file")
