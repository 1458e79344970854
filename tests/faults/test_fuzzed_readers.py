"""Every reader of files from elsewhere gets mutated files: a result or one clear error, whatever they hold.

A reader may raise ValueError and FileNotFoundError; everything else is a fault of the reader, also if it is a
violation of its annotations. The number of inputs is that of MESHCRITIC_INPUTS (tests/faults/conftest.py).
"""

from __future__ import annotations

import json
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.prompts.answers import Uncertainty, Verdict, keyed_by_label
from agent.scoring.ask import parse
from agent.tracing.reading import read_trace
from agent.vlm.protocol import MalformedReply
from agent.vlm.replay import ReplayBackend
from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.intrinsics import parse_intrinsics
from common.storage.files import CONFIGS
from common.storage.jsonl import Manifest
from eval.pipelines.align_settings import read_alignment
from eval.pipelines.demo import read_demo_settings
from eval.rankings.file import read_rankings
from hmr.body.model import load_body
from hmr.datasets.annotated_set import read_annotations
from hmr.detection.keypoints.files import read_keypoints
from hmr.images.photographs import load_photo
from hmr.images.videos import open_video
from hmr.pretraining.encoder_recipe import read_encoder_recipe
from hmr.pretraining.policy_recipe import read_policy_recipe
from hmr.synthetic.store import read_samples
from memory.transfer.exchange import read_document
from rl.preferences.build import group_of_row, load_preferences
from tests.cli.photos import test_hypotheses_file as hypotheses_files
from tests.faults import valid_files
from tests.faults.mutations import (
    ODD_ARRAYS,
    ODD_VALUES,
    changed_arrays,
    changed_bytes,
    changed_json,
    changed_value,
)
from tests.hmr.detection.keypoints.keypoint_files import PHOTO, SIZE, WRITERS
from tests.processes import ROOT
from tests.rl.preferences.test_build import build

MAX_BYTES = 600_000_000  # that reading one file may take at any moment; a photograph may take 300 MB
EXPECTED = (ValueError, FileNotFoundError, MalformedReply)


@dataclass(frozen=True)
class Reader:
    """How a file is read, the strategy that makes its content, and its name."""

    read: Callable[[Path], object]
    contents: st.SearchStrategy[bytes]
    name: str = "file.json"


def images(folder: Path) -> Reader:
    return Reader(load_photo, changed_bytes(valid_files.images()), "photo.png")


def videos(folder: Path) -> Reader:
    def frames(path: Path) -> None:
        for _ in zip(range(8), open_video(path).frames(), strict=False):
            pass

    return Reader(frames, changed_bytes([valid_files.gif()]), "video.gif")


def hypotheses(folder: Path) -> Reader:
    valid = [hypotheses_files.arrays(), hypotheses_files.arrays(people=1, group=2)]
    changed = changed_bytes([valid_files.npz(valid[1])]) | changed_arrays(valid)
    return Reader(lambda path: read_hypotheses(path, hypotheses_files.SIZE), changed, "h.npz")


def body_npz(folder: Path) -> Reader:
    body = valid_files.body_arrays()
    return Reader(load_body, changed_bytes([valid_files.npz(body)]) | changed_arrays([body]), "body.npz")


def body_pkl(folder: Path) -> Reader:
    body = valid_files.body_arrays()
    odd = st.sampled_from([*ODD_ARRAYS, *(value for value in ODD_VALUES if value != "\ud800")])
    names = st.sampled_from(sorted(body))
    replaced = st.builds(lambda name, value: pickle.dumps({**body, name: value}, protocol=2), names, odd)
    whole = [pickle.dumps(body, protocol=protocol) for protocol in (2, 4, 5)]
    return Reader(load_body, changed_bytes(whole) | replaced, "body.pkl")


def groups(folder: Path) -> Reader:
    def read(path: Path) -> None:
        for row in load_preferences(path.parent):
            group_of_row(row)

    return _parquet(build(folder, shard_rows=8) / "shard-00000.parquet", read)


def samples(folder: Path) -> Reader:
    return _parquet(
        valid_files.prepared_set(folder) / "samples.parquet", lambda path: list(read_samples(path.parent))
    )


def annotations(folder: Path) -> Reader:
    return _parquet(
        valid_files.prepared_set(folder) / "annotations.parquet", lambda path: read_annotations(path.parent)
    )


def _parquet(valid: Path, read: Callable[[Path], object]) -> Reader:
    content = valid.read_bytes()
    variants = valid_files.parquet_variants(content)
    return Reader(read, changed_bytes([content]) | st.sampled_from(variants), valid.name)


def manifest(folder: Path) -> Reader:
    def read(path: Path) -> None:
        with Manifest(path) as found:
            found.find("1.png", "1")

    return Reader(read, _lines(valid_files.MANIFEST[:3]), "manifest.jsonl")


def trace(folder: Path) -> Reader:
    return Reader(read_trace, _lines(valid_files.TRACE))


def recording(folder: Path) -> Reader:
    return Reader(ReplayBackend, _lines(valid_files.RECORDING[:3]))


def rankings(folder: Path) -> Reader:
    return Reader(read_rankings, _lines(valid_files.RANKINGS))


def _lines(records: Sequence[object]) -> st.SearchStrategy[bytes]:
    return changed_bytes([valid_files.as_lines(records)]) | changed_value([list(records)]).map(
        valid_files.as_lines
    )


def recipes(folder: Path) -> Reader:
    def read(path: Path) -> None:
        for kind in (read_demo_settings, read_encoder_recipe, read_policy_recipe):
            with suppress(*EXPECTED):
                kind(path)
        read_alignment(path)

    whole = [path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))]
    values = changed_value([yaml.safe_load(content) for content in whole])
    return Reader(
        read, changed_bytes(whole) | values.map(lambda value: yaml.safe_dump(value).encode()), "recipe.yaml"
    )


def replies(folder: Path) -> Reader:
    def read(path: Path) -> None:
        text = path.read_bytes().decode(errors="replace")
        with suppress(MalformedReply):
            parse(text, keyed_by_label("reflect", Uncertainty, ["A", "B", "C"]))
        parse(text, keyed_by_label("score", Verdict, ["A", "B", "C"]))

    return Reader(read, changed_json(valid_files.replies()))


def memory_document(folder: Path) -> Reader:
    return Reader(read_document, changed_json([valid_files.memory_document(folder / "valid.json")]))


def keypoints(folder: Path) -> Reader:
    valid = [json.dumps(write((0.0, 0.0), SIZE)).encode() for write in WRITERS.values()]
    return Reader(lambda path: read_keypoints(path, PHOTO, SIZE), changed_json(valid))


def camera(folder: Path) -> Reader:
    valid = [json.dumps(content).encode() for content in valid_files.CAMERAS]
    return Reader(lambda path: parse_intrinsics(None, None, path), changed_json(valid))


READERS: tuple[Callable[[Path], Reader], ...] = (
    images, videos, hypotheses, body_npz, body_pkl, groups, samples, annotations, manifest, trace, recording, rankings,
    recipes, replies, memory_document, keypoints, camera,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(0 if "MESHCRITIC_INPUTS" in os.environ else 600)
@pytest.mark.parametrize("make", READERS, ids=lambda make: make.__name__)
def test_a_mutated_file_is_read_or_refused_in_a_sentence(
    make: Callable[[Path], Reader], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    reader = make(tmp_path_factory.mktemp("valid"))
    counts = {"read": 0, "refused": 0}
    faults: dict[str, bytes] = {}
    path, most = tmp_path / reader.name, 0

    def report(error: Exception, content: bytes) -> None:
        if (place := _place_of(error)) not in faults:
            faults[place] = content
            print(f"{make.__name__}: {place}, for {content[:300]!r}")

    @settings()
    @given(reader.contents)
    def check(content: bytes) -> None:
        nonlocal most
        path.write_bytes(content)
        before = _reset_peak()
        try:
            reader.read(path)
            counts["read"] += 1
        except EXPECTED as error:
            counts["refused"] += 1
            if not str(error).strip():
                report(error, content)
        except Exception as error:  # noqa: BLE001 - every kind is reported, with its first input
            report(error, content)
        if (taken := _memory("VmHWM") - before) > most:
            most = taken
            if most > MAX_BYTES:
                faults[f"{most / 1e6:.0f} MB for {len(content)} bytes"] = content

    check()
    print(
        f"{make.__name__}: {counts['read']} inputs read, {counts['refused']} refused, at most {most / 1e6:.0f} MB"
    )
    assert not faults, "\n".join(faults)
    assert counts["refused"], "no input was refused"


def _reset_peak() -> int:
    """Forget the peak of this process's memory, and return its memory in bytes (Linux). Hypothesis keeps what it has
    drawn, so the growth of the process says little."""
    with suppress(OSError):  # where it cannot be reset, the peak is that of the process
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _place_of(error: Exception) -> str:
    """The error, and the last line of the project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    return f"{type(error).__name__} at {own[-1].filename}:{own[-1].lineno} ({' '.join(str(error).split())[:150]})"
