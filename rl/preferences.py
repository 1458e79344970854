"""Groups of scored hypotheses on disk: sampled from a policy, judged by a scorer, streamed to Parquet.

One row is one image with its whole group, so a set can be split, shuffled and sharded without ever parting
a group. `condition`, what the frozen encoder made of the image, lies in the row (3 KB beside 7 KB of
parameters): aligning then costs no image, no crop and no encoder, and a set can be handed on without its
photographs.

Shards hold `shard_rows` images each, in the order given, and appear whole or not at all. A killed run is
taken up at its first missing shard; what a shard in work had cost is kept only by the scorer's own cache.
Each image is encoded and sampled by itself, with a generator of its own, so that its bytes do not depend on
its neighbours; the critic costs far more than the batching would save. Left out: many workers (Ray Data),
which change who calls `_judge`, not what.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from hmr.policy import Features
from hmr.types import Hypotheses, Sample, Scorer
from rl.seeding import derive_generator
from rl.types import PARAM_COLUMNS, PreferenceGroup

__all__ = ["SamplingPolicy", "build_preferences", "load_preferences", "shuffle_scores"]

MANIFEST = "manifest.json"
SHARD_PATTERN = "shard-*.parquet"
FORMAT = 1


@runtime_checkable
class SamplingPolicy(Protocol):
    """The part of `hmr.policy.DiffusionPolicy` that group building needs."""

    def encode(self, samples: Sequence[Sample]) -> Features: ...

    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> list[Hypotheses]: ...

    def digest(self) -> str: ...


def build_preferences(
    policy: SamplingPolicy,
    scorer: Scorer,
    samples: Iterable[Sample],
    out: Path,
    *,
    group_size: int = 20,
    seed: int = 0,
    shard_rows: int = 64,
    noise_scale: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Samples `group_size` hypotheses an image, has them scored, and writes the rows under `out`.

    `noise_scale` multiplies the starting noise of the diffusion: above 1 groups spread. `progress` is
    called with the number of rows that were done since its last call, finished shards of an earlier run
    included. Returns `out`.

    The same arguments give the same bytes, in one go or in several. Raises ValueError if `out` was begun
    with other arguments or other images, if a group would be too small to compare, or if a score is missing
    or not finite.
    """
    if group_size < 2:
        raise ValueError(f"a group needs at least 2 hypotheses to compare, not {group_size}")
    settings = {
        "format": FORMAT,
        "group_size": group_size,
        "seed": seed,
        "shard_rows": shard_rows,
        "noise_scale": noise_scale,
        "scorer": scorer.name,
        "uses_truth": bool(getattr(scorer, "uses_truth", False)),
        "policy_digest": policy.digest(),
    }
    _claim(out, settings)
    expected = set()
    for index, block in enumerate(_blocks(samples, shard_rows)):
        shard = out / f"shard-{index:05d}.parquet"
        expected.add(shard)
        if shard.exists():
            _check_shard(shard, block)
            _advance(progress, len(block))
            continue
        rows = []
        for sample in block:
            rows.append(_judge(policy, scorer, sample, settings).to_row())
            _advance(progress, 1)
        _write_atomically(
            shard, lambda path, rows=rows: pq.write_table(_table(rows), path, compression="zstd")
        )
    if left_over := sorted(set(out.glob(SHARD_PATTERN)) - expected):
        raise ValueError(f"{out} holds shards of more images than were given, from {left_over[0].name} on")
    return out


def load_preferences(folder: Path) -> Dataset:
    """The rows of `build_preferences`, in memory; `PreferenceGroup.from_row` reads one.

    Raises FileNotFoundError if there is none.
    """
    shards = sorted(Path(folder).glob(SHARD_PATTERN))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no preference set: no file is named {SHARD_PATTERN}")
    return Dataset(pa.concat_tables([pq.read_table(shard) for shard in shards]))


def shuffle_scores(dataset: Dataset, seed: int) -> Dataset:
    """The control of every alignment: a group keeps its hypotheses and scores and loses which is whose."""
    table = cast(pa.Table, dataset.with_format("arrow")[:])
    scores = []
    for sample_id, group in zip(table["sample_id"].to_pylist(), table["scores"].to_pylist(), strict=True):
        order = torch.randperm(len(group), generator=derive_generator(seed, "shuffle", sample_id))
        scores.append([group[index] for index in order.tolist()])
    for name, column in {
        "scores": pa.array(scores, table.schema.field("scores").type),
        "scorer": pa.array([f"shuffled({name})" for name in table["scorer"].to_pylist()]),
    }.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return Dataset(table)


def _judge(
    policy: SamplingPolicy, scorer: Scorer, sample: Sample, settings: dict[str, Any]
) -> PreferenceGroup:
    features = policy.encode([sample])
    generator = derive_generator(settings["seed"], "group", sample.id)
    hypotheses = policy.sample(features, settings["group_size"], generator, settings["noise_scale"])[0]
    scores = scorer.score(sample, hypotheses)
    if not all(score is None or math.isfinite(score) for score in scores):
        raise ValueError(f"{scorer.name!r} scored {sample.id!r} {scores}; a failed score is None, never NaN")
    return PreferenceGroup(
        sample_id=sample.id,
        image_sha256=_image_sha256(sample),
        hypotheses=hypotheses,
        condition=features.condition[0],
        geometry=features.geometry[0],
        scores=tuple(scores),
        scorer=settings["scorer"],
        uses_truth=settings["uses_truth"],
        policy_digest=settings["policy_digest"],
    )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Writes the manifest, or finds the same one there."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / MANIFEST
    if not manifest.exists():
        _write_atomically(manifest, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))
    begun = json.loads(manifest.read_text())
    if changed := [name for name in settings if begun.get(name) != settings[name]]:
        told = ", ".join(f"{name}={begun.get(name)!r}, now {settings[name]!r}" for name in changed)
        raise ValueError(f"{out} was begun with {told}; take the same arguments up again or another folder")


def _check_shard(shard: Path, block: Sequence[Sample]) -> None:
    columns = pq.read_table(shard, columns=["sample_id", "image_sha256"]).to_pylist()
    if columns != [{"sample_id": item.id, "image_sha256": _image_sha256(item)} for item in block]:
        raise ValueError(f"{shard} was made from other images, or from these in another order")


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Arrays as float32 lists of fixed length, scores as nullable float64."""
    fixed = {name: len(rows[0][name]) for name in (*PARAM_COLUMNS, "condition", "geometry")}
    types: dict[str, pa.DataType] = {"sample_id": pa.string(), "image_sha256": pa.string()}
    types |= {"camera": pa.list_(pa.float64(), 5)}
    types |= {name: pa.list_(pa.float32(), length) for name, length in fixed.items()}
    types |= {"scores": pa.list_(pa.float64(), len(rows[0]["scores"]))}
    types |= {"scorer": pa.string(), "uses_truth": pa.bool_(), "policy_digest": pa.string()}
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(types.items())))


def _image_sha256(sample: Sample) -> str:
    """Content hash of the pixels and the image's shape; file names and compression do not matter."""
    image = np.ascontiguousarray(sample.image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    stream = iter(samples)
    while block := list(islice(stream, size)):
        yield block


def _advance(progress: Callable[[int], None] | None, rows: int) -> None:
    if progress is not None:
        progress(rows)
