"""Small valid files of every kind that a command reads, to be damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from agent.tracing.reading import FIELDS
from agent.vlm.replay import FORMAT
from hmr.datasets.annotated_set import prepare
from hmr.datasets.sources import source_of
from memory.prototype_memory import Prototype, PrototypeMemory
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.transfer.exchange import snapshot, write_document
from tests.hmr.datasets import layouts
from tests.memory.conftest import WordCounts

__all__ = [
    "CAMERAS", "MANIFEST", "RANKINGS", "RECORDING", "TRACE", "as_lines", "body_arrays", "gif", "images",
    "memory_document", "npz", "parquet_variants", "prepared_set", "replies",
]  # fmt: skip

CAMERAS: tuple[dict[str, Any], ...] = (
    {"focal_px": 800.0, "cx_px": 320.0, "cy_px": 240.0},
    {"K": [[800.0, 0, 320], [0, 800.0, 240], [0, 0, 1]]},
)
RANKINGS: tuple[dict[str, Any], ...] = (
    {"group": "a-0", "photo": "a.jpg", "hypotheses": "a-0.npz", "person": 0, "size": 4},
    {"judge": "1", "group": "a-0", "order": [[3], [0, 1], [2]]},
)
MANIFEST = tuple({"name": f"{number}.png", "fingerprint": "1", "people": []} for number in range(40))
RECORDING: tuple[dict[str, Any], ...] = (
    {"recording": FORMAT, "backend": "a", "revision": "1", "capabilities": {"images": True, "concurrency": 2}},
    *[
        {"key": f"{n}", "task": "score", "seed": 0, "parts": [], "text": "{}", "ms": 1.0, "tokens": [1, 2]}
        for n in range(9)
    ],
)  # fmt: skip
TRACE = 3 * ({name: (kind[0] if isinstance(kind, tuple) else kind)() for name, kind in FIELDS.items()},)
ODD_CELLS: tuple[Any, ...] = (
    None, 0, "a", [], [None], [1.5], [1e308] * 157, b"\xff", {"a": 1}, ["x"], float("nan"), [float("nan")] * 3,
)  # fmt: skip


def as_lines(records: Any) -> bytes:
    """JSON lines; a value that is no list is one line."""
    items = records if isinstance(records, list | tuple) else [records]
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def images() -> list[bytes]:
    """One of every format that photographs have."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **({"exif": exif} if kind == "JPEG" else {}))
        found.append(file.getvalue())
    return found


def gif() -> bytes:
    """A video of three frames."""
    file, frames = io.BytesIO(), [Image.fromarray(np.full((16, 12, 3), 60 * n, np.uint8)) for n in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=40)
    return file.getvalue()


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def body_arrays() -> dict[str, Any]:
    """A body of 24 joints and 30 vertices, in metres."""
    random, weights = np.random.default_rng(0), np.zeros((30, 24))
    weights[np.arange(30), np.arange(30) % 24] = 1
    return {
        "v_template": random.normal(size=(30, 3)) * 0.3,
        "f": np.arange(30).reshape(10, 3),
        "weights": weights,
        "shapedirs": random.normal(size=(30, 3, 10)) * 0.01,
        "posedirs": np.zeros((30, 3, 207)),
        "J_regressor": np.full((24, 30), 1 / 30),
        "kintree_table": np.stack([np.arange(24) - 1, np.arange(24)]),
    }


def parquet_variants(content: bytes) -> list[bytes]:
    """Valid Parquet files in which one column of this one is missing, empty or of another type."""
    table, found = pq.read_table(io.BytesIO(content)), []
    for name in table.column_names:
        at = table.column_names.index(name)
        odd = [table.set_column(at, name, pa.array([cell] * table.num_rows)) for cell in ODD_CELLS]
        for variant in (table.drop_columns([name]), *odd):
            file = io.BytesIO()
            pq.write_table(variant, file)
            found.append(file.getvalue())
    return found


def memory_document(path: Path) -> bytes:
    """An exported memory with a rule, a case and a prototype."""
    with MemoryStore(":memory:") as store:
        rules, predicate = RuleMemory(store, WordCounts()), Predicate("x_mm", ">", 0.5, 1.0)
        rules.add(
            [Rule.create("Mind the knee.", ["pose:upright"], Provenance("seed", "test", None), predicate)]
        )
        rules.record_case("case-1", [rule.rule_id for rule in rules.all()], True, {"a": 1})
        seen = Prototype.create("case-1", "seen", 50.0, ["pose:upright"], {"x_mm": 1.0}, {"x_mm": 0.5})
        PrototypeMemory(store, 3, "encoder").add([(seen, np.ones(3))])
        write_document(snapshot(store), path)
    return path.read_bytes()


def prepared_set(folder: Path) -> Path:
    """The folder of a prepared set of COCO's layout."""
    split = layouts.coco(folder / "coco")
    return prepare(source_of("coco", split), folder / "coco", split, folder / "set")


def replies() -> list[bytes]:
    """Of a VLM, to two kinds of questions about three hypotheses."""
    score = {"comment": "the left knee is bent too far", "score": 40}
    doubt = {"uncertain": True, "reason": "far apart"}
    return [json.dumps(dict.fromkeys("ABC", value)).encode() for value in (score, doubt)]
