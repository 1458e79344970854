"""Builds preference sets: groups of hypotheses, scored by a scorer, and streamed to Parquet.

The hypotheses are the policy's samples, or those of another proposer (`rl.preferences.proposers`).

One row is one image with its whole group, so a set can be split, shuffled and sharded without dividing a group. The
`condition`, the detection with the initial estimate (`hmr.policy.condition`), is stored in the row (3 KB beside 7 KB of
parameters), so alignment needs neither the image nor the detector, and a set can be shared without its photographs.

A group is saved as soon as it is scored, and shards appear complete (`rl.preferences.shards`): a killed run continues
with the groups that were being scored. If the backend of a critic is unavailable (the budget is spent, the server is
down), the group is scored again after all others, and again by the next run; after `MAX_UNAVAILABLE` such groups in a
row the run stops. Each image is encoded and sampled separately, with its own generator, so that its bytes depend
neither on other images nor on the order of scoring; the critic costs far more than batching would save. For many
processes and machines see `rl.preferences.ray_actors`, which calls `sample_group` and `score_group` in actors.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import pyarrow as pa
import torch
from datasets import Dataset

from agent.types import BackendUnavailable
from common.seeding import derive_generator
from common.stopping import stoppable
from common.storage.files import PathLike
from hmr.types import Hypotheses, Sample, Scorer
from rl.advantages import Scores
from rl.policy_adapter import AdapterGroup, PolicyAdapter
from rl.preferences.proposers import Group, PolicySamples, Proposer, SamplingPolicy
from rl.preferences.shards import (
    SHARD_PATTERN,
    GroupShards,
    RowPosition,
    encode_row,
    image_sha256,
    read_shard,
    rows_of_shard,
    unavailable_reason,
    unavailable_row,
)
from rl.preferences.tables import as_dataset, mapped_dataset, row_blocks
from rl.preferences.tensors import REWARDS
from rl.scorers.identity import scorer_digest
from rl.scorers.rewards import ScoresInParts
from rl.types import PreferenceGroup

__all__ = [
    "Rescore",
    "UnavailableGroups",
    "build_preferences",
    "describe_set",
    "group_of_row",
    "identity_of",
    "load_preferences",
    "sample_group",
    "score_group",
    "score_groups",
    "shuffle_scores",
]

FORMAT = 1
MAX_UNAVAILABLE = 8  # groups in a row without an answer, not counting those in flight
Settings = dict[str, Any]  # the manifest
Rescore = Callable[[Dataset, int], Dataset]  # (groups, seed) -> the same groups with other scores


def build_preferences(
    policy: SamplingPolicy | PolicyAdapter,
    scorer: Scorer,
    samples: Iterable[Sample],
    out: PathLike,
    *,
    group_size: int = 20,
    seed: int = 0,
    shard_rows: int = 64,
    noise_scale: float = 1.0,
    in_flight: int = 1,
    proposer: Proposer | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Propose hypotheses for each image, score them, and write the rows under `out`; returns `out`.

    group_size, noise_scale: of `PolicySamples`, which samples the hypotheses from the policy.
    proposer: makes the hypotheses instead and decides on their number, such as `rl.preferences.search.Search`.
    in_flight: number of groups scored at once, in threads of this process, for a scorer that waits for a server.
    progress: called with the number of rows finished since its last call, including those of an earlier run.

    The same arguments give the same bytes, in one run or in several. Raises ValueError if `out` holds groups made with
    other arguments, another critic (`rl.scorers.identity`) or other images, if a group has fewer than 2, if a scorer
    returns a wrong number of scores or one that is not finite, if groups remain for which the critic was unavailable,
    and if no group got a score. The next run continues with what is saved by then.
    """
    proposer = proposer or PolicySamples(group_size, noise_scale)
    settings = describe_set(policy, scorer, proposer, seed, shard_rows)
    return score_groups(
        lambda position, sample: sample_group(policy, proposer, sample, settings),
        scorer,
        samples,
        out,
        settings,
        in_flight=in_flight,
        progress=progress,
    )


def score_groups(
    draw: Callable[[RowPosition, Sample], Group],
    scorer: Scorer,
    samples: Iterable[Sample],
    out: PathLike,
    settings: Settings,
    *,
    in_flight: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """`build_preferences` for groups from any source: `draw` returns the group of a sample, without scores.

    settings: the manifest; groups that are saved in `out` with another one are refused.
    """
    out = Path(out)
    shards, advance = GroupShards(out, settings), progress or (lambda rows: None)
    positions = shards.missing(_blocks(samples, settings["shard_rows"]), advance)
    todo: Iterable[tuple[RowPosition, Sample]] = (
        (position, block[position.row]) for position, block in positions
    )
    for _ in range(2):  # the second pass is for groups whose backend was unavailable
        unavailable = UnavailableGroups[tuple[RowPosition, Sample]](in_flight)
        sampled = (
            (position, sample, draw(position, sample)) for position, sample in unavailable.until_limit(todo)
        )
        for position, sample, row in _scored_rows(scorer, sampled, in_flight):
            shards.add(position, row)
            if not unavailable.record((position, sample), row):
                advance(1)
        if unavailable.limit_reached or not shards.has_rows:
            break
        todo = unavailable.groups
    shards.close(len(samples) if isinstance(samples, Sized) else None)
    return out


def describe_set(
    policy: SamplingPolicy | PolicyAdapter,
    scorer: Scorer,
    proposer: Proposer,
    seed: int,
    shard_rows: int,
) -> Settings:
    """The manifest of a set: everything its bytes depend on except the images. Raises ValueError for a group of one."""
    if proposer.group_size < 2:
        raise ValueError(f"a group needs at least 2 hypotheses to compare, not {proposer.group_size}")
    return {
        "format": FORMAT,
        **proposer.describe(),
        "seed": seed,
        "shard_rows": shard_rows,
        "scorer": scorer.name,
        "scorer_digest": scorer_digest(scorer),
        "uses_truth": bool(getattr(scorer, "uses_truth", False)),
        "policy_digest": policy.digest(),
    }


def sample_group(
    policy: SamplingPolicy | PolicyAdapter, proposer: Proposer, sample: Sample, settings: Settings
) -> Group:
    """The proposer's group of an image; all its scores are None."""
    generator = derive_generator(settings["seed"], "group", sample.id)
    return proposer.propose(policy, sample, generator).unscored(**identity_of(sample, settings))


def identity_of(sample: Sample, settings: Settings) -> dict[str, Any]:
    """The fields of a group that its hypotheses do not decide on."""
    common = {name: settings[name] for name in ("scorer", "uses_truth", "policy_digest")}
    return {**common, "sample_id": sample.id, "image_sha256": image_sha256(sample)}


def group_of_row(row: dict[str, Any]) -> Group:
    """The group in a row, of either type."""
    return AdapterGroup.from_row(row) if "x0" in row else PreferenceGroup.from_row(row)


def score_group(scorer: Scorer, sample: Sample, group: Group) -> bytes:
    """The encoded row of a group with its scores, and those of each reward function if the scorer has several; an
    `unavailable_row` if the backend of the critic is unavailable."""
    try:
        scores, parts = _scores(scorer, sample, group)
    except BackendUnavailable as error:
        return unavailable_row(str(error))
    row = dataclasses.replace(group, scores=tuple(scores)).to_row()
    return encode_row({**row, **{REWARDS + name: list(part) for name, part in parts.items()}})


def _scores(
    scorer: Scorer, sample: Sample, group: Group
) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """The scores, and those of each reward function if the scorer has several."""
    if isinstance(scorer, ScoresInParts):
        parts = scorer.score_parts(sample, group.hypotheses)
        return scorer.combine(parts), parts
    # hypotheses of an adapter that are no `Hypotheses` need a scorer written for them
    return scorer.score(sample, cast(Hypotheses, group.hypotheses)), {}


def load_preferences(folder: PathLike, columns: Sequence[str] | None = None) -> Dataset:
    """The rows that `build_preferences` wrote; `PreferenceGroup.from_row` decodes one. They may be more than fit in
    memory: they are mapped from a file without a name in `folder`, or in the folder of temporary files if `folder` is
    read-only. It has the size of the set, decompressed.

    columns: the names of those to read; None for all.

    Raises FileNotFoundError if there is no row, ValueError for a damaged shard, and OSError, with folder and size, if
    the disk is too small.
    """
    shards = sorted(Path(folder).glob(SHARD_PATTERN))
    if not shards:
        raise FileNotFoundError(f"{folder} holds no preference set: no file is named {SHARD_PATTERN}")
    rows = sum(rows_of_shard(shard) for shard in shards)
    writable = folder if os.access(folder, os.W_OK) else tempfile.gettempdir()
    return mapped_dataset((read_shard(shard, columns) for shard in shards), rows, writable)


def shuffle_scores(dataset: Dataset, seed: int) -> Dataset:
    """Permute the scores within each group, as a control of alignment. The new scores are held in memory: 200 bytes per
    image (G = 20)."""
    table = cast(pa.Table, dataset.with_format("arrow")[:])
    kind = table.schema.field("scores").type
    scores, scorers = [], []
    for block in row_blocks(dataset, ["sample_id", "scores", "scorer"]):
        ids, groups = block["sample_id"].to_pylist(), block["scores"].to_pylist()
        shuffled = [_permuted(group, seed, sample_id) for sample_id, group in zip(ids, groups, strict=True)]
        scores.append(pa.array(shuffled, kind))
        scorers.append(pa.array([f"shuffled({name})" for name in block["scorer"].to_pylist()]))
    for name, chunks in {"scores": scores, "scorer": scorers}.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.chunked_array(chunks))
    return as_dataset(table)


def _permuted(group: Scores, seed: int, sample_id: str) -> list[float | None]:
    order = torch.randperm(len(group), generator=derive_generator(seed, "shuffle", sample_id))
    return [group[index] for index in order.tolist()]


Item = TypeVar("Item")  # what identifies a group to its caller


@dataclass
class UnavailableGroups(Generic[Item]):
    """Groups that were not scored because the backend was unavailable. `MAX_UNAVAILABLE` of them in a row, besides
    those that were in flight, stop the sampling."""

    in_flight: int
    groups: list[Item] = field(default_factory=list)
    in_a_row: int = 0

    @property
    def limit_reached(self) -> bool:
        return self.in_a_row >= MAX_UNAVAILABLE + self.in_flight - 1

    def record(self, item: Item, row: bytes) -> bool:
        """Count a row; returns whether its backend was unavailable."""
        if unavailable_reason(row) is None:
            self.in_a_row = 0
            return False
        self.groups.append(item)
        self.in_a_row += 1
        return True

    def until_limit(self, todo: Iterable[Item]) -> Iterator[Item]:
        for item in todo:
            yield item
            if self.limit_reached:  # groups in flight are still finished and saved
                return


SampledGroup = tuple[RowPosition, Sample, Group]
ScoredRow = tuple[RowPosition, Sample, bytes]


def _scored_rows(scorer: Scorer, sampled: Iterable[SampledGroup], in_flight: int) -> Iterator[ScoredRow]:
    """Rows in the order in which they are finished, at most `in_flight` at once; one at a time needs no thread."""
    if in_flight == 1:
        yield from (
            (position, sample, score_group(scorer, sample, group)) for position, sample, group in sampled
        )
        return
    running: dict[Future[bytes], tuple[RowPosition, Sample]] = {}
    with stoppable(ThreadPoolExecutor(in_flight, "scorer")) as pool:
        for position, sample, group in sampled:
            running[pool.submit(score_group, scorer, sample, group)] = position, sample
            if len(running) >= in_flight:
                yield from _completed(running)
        while running:
            yield from _completed(running)


def _completed(running: dict[Future[bytes], tuple[RowPosition, Sample]]) -> Iterator[ScoredRow]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield *running.pop(future), future.result()


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    stream = iter(samples)
    while block := list(islice(stream, size)):
        yield block
