"""Groups of scored hypotheses on disk: sampled from a policy, judged by a scorer, streamed to Parquet.

One row is one image with its whole group, so a set can be split, shuffled and sharded without ever parting
a group. `condition`, what the frozen encoder made of the image, lies in the row (3 KB beside 7 KB of
parameters): aligning then costs no image, no crop and no encoder, and a set can be handed on without its
photographs.

A group is on disk as soon as it is judged, and shards appear whole (`rl.preferences.shards`): a killed run is taken up with
the groups that were in flight. A critic that finds nobody to answer (a spent budget, a server that is down) costs no
group either: those are asked for once more when all others are judged, and by the next run; after `PATIENCE` of them in
a row this one stops. Each image is encoded and sampled by itself, with a generator of its own, so that
its bytes depend neither on its neighbours nor on who judges it when; the critic costs far more than the batching
would save. Many processes and machines: `rl.preferences.ray_actors`, which calls `draw_group` and `judge_group` elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from agent.types import BackendUnavailable
from common.seeding import derive_generator
from hmr.policy.policy import Features
from hmr.types import Hypotheses, Sample, Scorer
from rl.policy_adapter import AdapterGroup, PolicyAdapter
from rl.preferences.shards import (
    SHARD_PATTERN,
    GroupShards,
    Place,
    encode_row,
    image_sha256,
    unavailable_reason,
    unavailable_row,
)
from rl.preferences.tensors import REWARDS
from rl.scorers.identity import scorer_digest
from rl.scorers.rewards import ScoresInParts
from rl.types import PreferenceGroup

__all__ = [
    "SamplingPolicy",
    "build_preferences",
    "describe_set",
    "draw_group",
    "group_of_row",
    "judge_group",
    "load_preferences",
    "shuffle_scores",
]

FORMAT = 1
PATIENCE = 8  # groups that nobody answered for, one after the other, beside those in flight
Settings = dict[str, Any]  # what the manifest says
Group = PreferenceGroup | AdapterGroup


@runtime_checkable
class SamplingPolicy(Protocol):
    """The part of `hmr.policy.policy.DiffusionPolicy` that group building needs."""

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
    policy: SamplingPolicy | PolicyAdapter,
    scorer: Scorer,
    samples: Iterable[Sample],
    out: Path,
    *,
    group_size: int = 20,
    seed: int = 0,
    shard_rows: int = 64,
    noise_scale: float = 1.0,
    in_flight: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Samples `group_size` hypotheses an image, has them scored, and writes the rows under `out`.

    `noise_scale` multiplies the starting noise of the diffusion: above 1 groups spread. `in_flight` groups are with
    the scorer at once, in threads of this process: for a scorer that waits for a server. `progress` is called with the
    number of rows that were done since its last call, those of an earlier run included. Returns `out`.

    The same arguments give the same bytes, in one go or in several. Raises ValueError if `out` was begun
    with other arguments, another critic (`rl.scorers.identity`) or other images, if a group would be too small
    to compare, if a score is missing or not finite, and where groups are left that nobody answered for, or none got a
    score: what is kept by then is found again.
    """
    settings = describe_set(policy, scorer, group_size, seed, shard_rows, noise_scale)
    shards, advance = GroupShards(out, settings), progress or (lambda rows: None)
    places = shards.missing(_blocks(samples, shard_rows), advance)
    todo: Iterable[tuple[Place, Sample]] = ((place, block[place.row]) for place, block in places)
    for _ in range(2):  # the second time for those that nobody answered for
        left = _Unanswered(PATIENCE + in_flight - 1)
        drawn = (
            (place, sample, draw_group(policy, sample, settings))
            for place, sample in left.while_answered(todo)
        )
        for place, sample, row in _judged(scorer, drawn, in_flight):
            shards.keep(place, row)
            if left.hear(place, sample, row):
                advance(1)
        if left.too_many or not shards.begun:
            break
        todo = left.groups
    shards.close(len(samples) if isinstance(samples, Sized) else None)
    return out


def describe_set(
    policy: SamplingPolicy | PolicyAdapter,
    scorer: Scorer,
    group_size: int,
    seed: int,
    shard_rows: int,
    noise_scale: float,
) -> Settings:
    """The manifest of a set: all that its bytes depend on, beside the images. Raises ValueError for a group of one."""
    if group_size < 2:
        raise ValueError(f"a group needs at least 2 hypotheses to compare, not {group_size}")
    return {
        "format": FORMAT,
        "group_size": group_size,
        "seed": seed,
        "shard_rows": shard_rows,
        "noise_scale": noise_scale,
        "scorer": scorer.name,
        "scorer_digest": scorer_digest(scorer),
        "uses_truth": bool(getattr(scorer, "uses_truth", False)),
        "policy_digest": policy.digest(),
    }


def draw_group(policy: SamplingPolicy | PolicyAdapter, sample: Sample, settings: Settings) -> Group:
    """A group that nobody has judged yet: every score is None."""
    size, noise_scale = settings["group_size"], settings["noise_scale"]
    generator = derive_generator(settings["seed"], "group", sample.id)
    told = {name: settings[name] for name in ("scorer", "uses_truth", "policy_digest")}
    told |= {"sample_id": sample.id, "image_sha256": image_sha256(sample), "scores": (None,) * size}
    if isinstance(policy, PolicyAdapter):
        condition = policy.features([sample])
        draws = policy.sample(condition, size, generator, noise_scale)
        return AdapterGroup(hypotheses=draws.shown[0], condition=condition[0], x0=draws.x0[0], **told)
    features = policy.encode([sample])
    hypotheses = policy.sample(features, size, generator, noise_scale)[0]
    return PreferenceGroup(
        hypotheses=hypotheses, condition=features.condition[0], geometry=features.geometry[0], **told
    )


def group_of_row(row: dict[str, Any]) -> Group:
    """A group of either kind from its row."""
    return AdapterGroup.from_row(row) if "x0" in row else PreferenceGroup.from_row(row)


def judge_group(scorer: Scorer, sample: Sample, group: Group) -> bytes:
    """The finished row of a drawn group, with the scores of each reward function if the scorer mixes several; an
    `unavailable_row` where the critic found nobody to answer."""
    try:
        scores, parts = _scores(scorer, sample, group)
    except BackendUnavailable as error:
        return unavailable_row(str(error))
    if not all(score is None or math.isfinite(score) for score in scores):
        raise ValueError(f"{scorer.name!r} scored {sample.id!r} {scores}; a failed score is None, never NaN")
    row = dataclasses.replace(group, scores=tuple(scores)).to_row()
    return encode_row({**row, **{REWARDS + name: list(part) for name, part in parts.items()}})


def _scores(
    scorer: Scorer, sample: Sample, group: Group
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """And those of each part, where it has parts."""
    if isinstance(scorer, ScoresInParts):
        parts = scorer.score_parts(sample, group.hypotheses)
        return scorer.combine(parts), parts
    # what an adapter shows that is no `Hypotheses` is for a scorer that was made for it
    return scorer.score(sample, cast(Hypotheses, group.hypotheses)), {}


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


@dataclass
class _Unanswered:
    """The groups that nobody answered for; with `patience` of them in a row there is no use in drawing more."""

    patience: int
    groups: list[tuple[Place, Sample]] = field(default_factory=list)
    in_a_row: int = 0

    @property
    def too_many(self) -> bool:
        return self.in_a_row >= self.patience

    def hear(self, place: Place, sample: Sample, row: bytes) -> bool:
        """Whether somebody answered."""
        if unavailable_reason(row) is None:
            self.in_a_row = 0
            return True
        self.groups.append((place, sample))
        self.in_a_row += 1
        return False

    def while_answered(self, todo: Iterable[tuple[Place, Sample]]) -> Iterator[tuple[Place, Sample]]:
        for item in todo:
            yield item
            if self.too_many:  # what is in flight is still waited for, and kept
                return


Drawn = tuple[Place, Sample, Group]
Judged = tuple[Place, Sample, bytes]


def _judged(scorer: Scorer, drawn: Iterable[Drawn], in_flight: int) -> Iterator[Judged]:
    """Rows as they are finished, at most `in_flight` of them at work; one at a time needs no thread."""
    if in_flight == 1:
        yield from ((place, sample, judge_group(scorer, sample, group)) for place, sample, group in drawn)
        return
    at_work: dict[Future[bytes], tuple[Place, Sample]] = {}
    with ThreadPoolExecutor(in_flight, "judge") as pool:
        for place, sample, group in drawn:
            at_work[pool.submit(judge_group, scorer, sample, group)] = place, sample
            if len(at_work) >= in_flight:
                yield from _finished(at_work)
        while at_work:
            yield from _finished(at_work)


def _finished(at_work: dict[Future[bytes], tuple[Place, Sample]]) -> Iterator[Judged]:
    done, _ = wait(at_work, return_when=FIRST_COMPLETED)
    for future in done:
        yield *at_work.pop(future), future.result()


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    stream = iter(samples)
    while block := list(islice(stream, size)):
        yield block
