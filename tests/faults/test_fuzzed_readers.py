"""Every reader of files from elsewhere gets mutated files: a result or one clear error, whatever they hold.

A reader may raise ValueError and FileNotFoundError; everything else is a fault of the reader, also if it is a
violation of its annotations. The number of inputs is that of the profile in tests/faults/conftest.py.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.prompts.answers import Doubt, Verdict, keyed_by_label
from agent.scoring.ask import parse
from agent.tracing.reading import FIELDS, read_trace
from agent.vlm.protocol import MalformedReply
from agent.vlm.replay import FORMAT, ReplayBackend
from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.intrinsics import parse_intrinsics
from common.files import CONFIGS
from common.jsonl import Manifest
from eval.pipelines.align_settings import read_alignment
from eval.pipelines.demo import read_demo_settings
from eval.rankings.file import read_rankings
from hmr.body.model import load_body
from hmr.datasets.annotated_set import prepare, read_annotations
from hmr.datasets.sources import source_of
from hmr.detection.keypoints.files import read_keypoints
from hmr.images.photographs import load_photo
from hmr.images.videos import open_video
from hmr.pretraining.encoder_recipe import read_encoder_recipe
from hmr.pretraining.policy_recipe import read_policy_recipe
from hmr.synthetic.store import read_samples
from memory.exchange import read_document, snapshot, write_document
from memory.prototype_memory import Prototype, PrototypeMemory
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from rl.preferences.build import group_of_row, load_preferences
from tests.cli.photos.test_hypotheses_file import SIZE as HYPOTHESES_SIZE
from tests.cli.photos.test_hypotheses_file import arrays
from tests.faults.mutations import (
    ODD_ARRAYS,
    ODD_VALUES,
    changed_arrays,
    changed_bytes,
    changed_json,
    changed_value,
)
from tests.hmr.datasets import layouts
from tests.hmr.detection.keypoints.keypoint_files import PHOTO, SIZE, WRITERS
from tests.memory.conftest import WordCounts
from tests.processes import ROOT
from tests.rl.preferences.test_build import build

MAX_GROWTH_BYTES = 600_000_000  # of the process while a reader gets all its inputs; a photograph may take 300 MB
EXPECTED = (ValueError, FileNotFoundError, MalformedReply)


@dataclass(frozen=True)
class Reader:
    """How a file is read, and the strategy that makes its content."""

    read: Callable[[Path], object]
    contents: st.SearchStrategy[bytes]
    name: str = "file"


# -- valid files -------------------------------------------------------------------------------------------------------


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    found = []
    for kind, options in (("PNG", {}), ("JPEG", {"exif": _exif()}), ("WEBP", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {})):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _gif() -> bytes:
    file, frames = io.BytesIO(), [Image.fromarray(np.full((16, 12, 3), 60 * n, np.uint8)) for n in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=40)
    return file.getvalue()


def _body() -> dict[str, Any]:
    """A body of 24 joints and 30 vertices, in metres."""
    random, weights = np.random.default_rng(0), np.zeros((30, 24))
    weights[np.arange(30), np.arange(30) % 24] = 1
    parents = np.arange(24) - 1
    return {
        "v_template": random.normal(size=(30, 3)) * 0.3,
        "f": np.arange(30).reshape(10, 3),
        "weights": weights,
        "shapedirs": random.normal(size=(30, 3, 10)) * 0.01,
        "posedirs": np.zeros((30, 3, 207)),
        "J_regressor": np.full((24, 30), 1 / 30),
        "kintree_table": np.stack([parents, np.arange(24)]),
    }


def _pickles() -> st.SearchStrategy[bytes]:
    body = _body()
    whole = [pickle.dumps(body, protocol=protocol) for protocol in (2, 4, 5)]
    odd = st.sampled_from([*ODD_ARRAYS, *(value for value in ODD_VALUES if value != "\ud800")])
    changed = st.tuples(st.sampled_from(sorted(body)), odd).map(lambda pair: pickle.dumps({**body, pair[0]: pair[1]}, protocol=2))
    return changed_bytes(whole) | changed


def _groups(folder: Path) -> bytes:
    return (build(folder, shard_rows=8) / "shard-00000.parquet").read_bytes()


def _changed_table(content: bytes) -> st.SearchStrategy[bytes]:
    """A valid Parquet file in which a column is missing, empty or of another type."""
    table = pq.read_table(io.BytesIO(content))
    odd: list[Any] = [None, 0, "a", [], [None], [1.5], [1e308] * 157, b"\xff", {"a": 1}, ["x"], float("nan"), [float("nan")] * 3]

    def change(asked: tuple[str, int]) -> bytes:
        name, which = asked
        columns = [column for column in table.column_names if column != name or which >= 0]
        found = table.select(columns)
        if which >= 0:
            at = found.column_names.index(name)
            found = found.set_column(at, name, pa.array([odd[which]] * table.num_rows))
        file = io.BytesIO()
        pq.write_table(found, file)
        return file.getvalue()

    return st.tuples(st.sampled_from(table.column_names), st.integers(-1, len(odd) - 1)).map(change)


def _memory_document(path: Path) -> bytes:
    with MemoryStore(":memory:") as store:
        rules = RuleMemory(store, WordCounts())
        rules.add([Rule.create("Mind the knee.", ["pose:upright"], Provenance("seed", "test", None), Predicate("x_mm", ">", 0.5, 1.0))])
        rules.record_case("case-1", [rule.rule_id for rule in rules.all()], True, {"a": 1})
        seen = Prototype.create("case-1", "seen", 50.0, ["pose:upright"], {"x_mm": 1.0}, {"x_mm": 0.5})
        PrototypeMemory(store, 3, "encoder").add([(seen, np.ones(3))])
        write_document(snapshot(store), path)
    return path.read_bytes()


def prepared_set(folder: Path) -> Path:
    split = layouts.coco(folder / "coco")
    return prepare(source_of("coco", split), folder / "coco", split, folder / "set")


# -- what is done with a file ------------------------------------------------------------------------------------------


def _read_groups(path: Path) -> None:
    for row in load_preferences(path.parent):
        group_of_row(row)


def _read_frames(path: Path) -> None:
    for _ in zip(range(8), open_video(path).frames(), strict=False):
        pass


def _read_manifest(path: Path) -> None:
    with Manifest(path) as manifest:
        manifest.find("a.png", "1")


def _read_samples(path: Path) -> None:
    list(read_samples(path.parent))


def _read_reply(path: Path) -> None:
    text = path.read_bytes().decode(errors="replace")
    with suppress(MalformedReply):
        parse(text, keyed_by_label("reflect", Doubt, ["A", "B", "C"]))
    parse(text, keyed_by_label("score", Verdict, ["A", "B", "C"]))


def _read_recipe(path: Path) -> None:
    for read in (read_demo_settings, read_encoder_recipe, read_policy_recipe):
        with suppress(*EXPECTED):
            read(path)
    read_alignment(path)


def _recipes() -> st.SearchStrategy[bytes]:
    whole = [path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))]
    values = [yaml.safe_load(content) for content in whole]
    plain = changed_value(values).map(lambda value: yaml.safe_dump(value, allow_unicode=False).encode(errors="replace"))
    return changed_bytes(whole) | plain


def _jsonl(*records: Any) -> st.SearchStrategy[bytes]:
    return changed_json([b"".join(json.dumps(record).encode() + b"\n" for record in records)], lines=True)


def _reply(kind: str) -> dict[str, Any]:
    value = {"comment": "the left knee is bent too far", "score": 40}
    return {label: value if kind == "score" else {"doubt": True, "reason": "far apart"} for label in "ABC"}


@pytest.fixture(scope="session")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Reader]]:
    def folder() -> Path:
        return tmp_path_factory.mktemp("valid")

    rankings = ({"group": "a-0", "photo": "a.jpg", "hypotheses": "a-0.npz", "person": 0, "size": 4},
                {"judge": "1", "group": "a-0", "order": [[3], [0, 1], [2]]})  # fmt: skip
    camera = [{"focal_px": 800.0, "cx_px": 320.0, "cy_px": 240.0}, {"K": [[800.0, 0, 320], [0, 800.0, 240], [0, 0, 1]]}]
    header = {"recording": FORMAT, "backend": "a", "revision": "1", "capabilities": {"images": True, "concurrency": 2}}
    recorded = {"key": "k", "task": "score", "seed": 0, "parts": [], "text": "{}", "ms": 1.0, "tokens": [1, 2]}
    record = {name: (kind[0] if isinstance(kind, tuple) else kind)() for name, kind in FIELDS.items()}
    points = [json.dumps(write((0.0, 0.0), SIZE)).encode() for write in WRITERS.values()]
    done = {"name": "a.png", "stamp": "1", "people": [], "said": []}

    def groups() -> Reader:
        content = _groups(folder())
        return Reader(_read_groups, changed_bytes([content]) | _changed_table(content), "shard-00000.parquet")

    def samples() -> Reader:
        content = (prepared_set(folder()) / "samples.parquet").read_bytes()
        return Reader(_read_samples, changed_bytes([content]) | _changed_table(content), "samples.parquet")

    def annotations() -> Reader:
        content = (prepared_set(folder()) / "annotations.parquet").read_bytes()
        return Reader(lambda path: read_annotations(path.parent), changed_bytes([content]) | _changed_table(content), "annotations.parquet")

    def hypotheses() -> Reader:
        valid = [arrays(), arrays(people=1, group=2)]
        file = io.BytesIO()
        np.savez(file, **valid[1])
        changed = changed_bytes([file.getvalue()]) | changed_arrays(valid)
        return Reader(lambda path: read_hypotheses(path, HYPOTHESES_SIZE), changed, "h.npz")

    def body_npz() -> Reader:
        file = io.BytesIO()
        np.savez(file, **_body())
        return Reader(load_body, changed_bytes([file.getvalue()]) | changed_arrays([_body()]), "body.npz")

    return {
        "images": lambda: Reader(load_photo, changed_bytes(_images()), "photo.png"),
        "videos": lambda: Reader(_read_frames, changed_bytes([_gif()]), "video.gif"),
        "hypotheses": hypotheses,
        "body_npz": body_npz,
        "body_pkl": lambda: Reader(load_body, _pickles(), "body.pkl"),
        "groups": groups,
        "samples": samples,
        "annotations": annotations,
        "manifest": lambda: Reader(_read_manifest, _jsonl(done, {**done, "name": "b"}), "manifest.jsonl"),
        "trace": lambda: Reader(read_trace, _jsonl(record, record), "trace.jsonl"),
        "recording": lambda: Reader(ReplayBackend, _jsonl(header, recorded), "replies.jsonl"),
        "recipes": lambda: Reader(_read_recipe, _recipes(), "recipe.yaml"),
        "replies": lambda: Reader(_read_reply, changed_json([json.dumps(_reply(kind)).encode() for kind in ("score", "reflect")])),
        "memory_document": lambda: Reader(read_document, changed_json([_memory_document(folder() / "m.json")]), "memory.json"),
        "keypoints": lambda: Reader(lambda path: read_keypoints(path, PHOTO, SIZE), changed_json(points), "points.json"),
        "camera": lambda: Reader(lambda path: parse_intrinsics(None, None, path), changed_json([json.dumps(c).encode() for c in camera]), "camera.json"),
        "rankings": lambda: Reader(read_rankings, _jsonl(*rankings), "rankings.jsonl"),
    }  # fmt: skip


NAMES = (
    "images", "videos", "hypotheses", "body_npz", "body_pkl", "groups", "samples", "annotations", "manifest", "trace",
    "recording", "recipes", "replies", "memory_document", "keypoints", "camera", "rankings",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(0 if "HYPOTHESIS_PROFILE" in os.environ else 600)
@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_read_or_refused_in_a_sentence(name: str, readers, tmp_path: Path):
    reader, counts, faults = readers[name](), {"read": 0, "refused": 0}, {}
    path, before = tmp_path / reader.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings()
    @given(reader.contents)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            reader.read(path)
            counts["read"] += 1
        except EXPECTED as error:
            counts["refused"] += 1
            assert str(error).strip(), "a refusal without a sentence"
        except Exception as error:  # noqa: BLE001 - every kind is reported, with its first input
            faults.setdefault(_place_of(error), content[:300])

    check()
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(f"{name}: {counts['read']} inputs read, {counts['refused']} refused, {growth / 1e6:.0f} MB more at most")
    assert not faults, "\n".join(f"{place}: {content!r}" for place, content in faults.items())
    assert growth < MAX_GROWTH_BYTES
    assert counts["refused"], "no input was refused"


def _place_of(error: Exception) -> str:
    """The error, and the last line of the project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and "site-packages" not in frame.filename]
    return f"{type(error).__name__} at {own[-1].filename}:{own[-1].lineno} ({' '.join(str(error).split())[:150]})"
