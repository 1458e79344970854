"""Builds preference sets on many processes or machines with Ray Data (extra `ray`); policies and critics are actors.

    positions to fill -> policy actors: encode, sample -> critic actors: score -> this process: rl.preferences.shards

Rows come back in any order and only this process writes them. The files are those of
`rl.preferences.build.build_preferences`, byte for byte, with every group exactly once. Processes exchange Arrow bytes,
never tensors. Each actor reads the photographs of the positions that it receives.

Retries and back-pressure are those of Ray Data. An actor that dies is restarted and its task repeated, without a limit:
a group that kills every worker blocks the run, and the log of its task shows it. The policy waits if critics are
behind. An exception of a policy or a critic ends the run, as it does without Ray; groups scored before are in the
journal, and the same call continues from there. A backend that is unavailable to many groups in a row ends the run
likewise.

Left out: the image sources of Ray, because data sets differ in more than paths; several writers, because one suffices
(a row has some 20 KB and costs a VLM seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.stopping import stoppable
from common.storage.files import PathLike
from hmr.types import Sample, Scorer
from rl.policy_adapter import PolicyAdapter
from rl.preferences.build import (
    Settings,
    UnavailableGroups,
    build_preferences,
    describe_set,
    group_of_row,
    sample_group,
    score_group,
)
from rl.preferences.proposers import PolicySamples, Proposer, SamplingPolicy
from rl.preferences.shards import GroupShards, RowPosition, decode_row, encode_row
from rl.scorers.identity import scorer_digest

__all__ = ["RayActors", "build_preferences_by_actors"]

MakePolicy = Callable[[], SamplingPolicy | PolicyAdapter]
MakeScorer = Callable[[Any], Scorer]  # takes the policy
MakeProposer = Callable[[Any], Proposer]  # takes the policy


@dataclass(frozen=True)
class RayActors:
    """Numbers of actors and their resources in the cluster. Raises ValueError for a count below 1."""

    policies: int = 1
    critics: int = 2
    groups_per_task: int = 8  # repeated if the worker dies
    in_flight: int = 8  # groups that a critic scores at once, in threads
    cpus: float = 1.0  # of each actor
    policy_gpus: float = 0.0
    critic_gpus: float = 0.0  # 0 if the VLM runs in a server

    def __post_init__(self) -> None:
        for name in ("policies", "critics", "groups_per_task", "in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def build_preferences_by_actors(
    make_policy: MakePolicy,
    make_scorer: MakeScorer,
    samples: Sequence[Sample],
    out: PathLike,
    actors: RayActors | None,
    *,
    group_size: int = 20,
    seed: int = 0,
    shard_rows: int = 64,
    noise_scale: float = 1.0,
    in_flight: int = 1,
    make_proposer: MakeProposer | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """`rl.preferences.build.build_preferences` on the actors of a Ray cluster, or in this process if `actors` is None.

    make_policy, make_scorer, make_proposer: called once in every actor that needs one, and once here for names and
        digests. They are sent by cloudpickle, so they should open files by path. Without make_proposer the hypotheses
        are `group_size` samples of the policy.
    samples: sent by cloudpickle and indexed. For sets that are too large, pass a sequence that reads on access.
    in_flight: groups scored at once without actors; with actors `RayActors.in_flight` applies.

    Ray is started on this machine unless it runs already or RAY_ADDRESS names a cluster. Raises what
    `build_preferences` raises, and ValueError if Ray is not installed.
    """
    policy, make_proposer = make_policy(), make_proposer or _Samples(PolicySamples(group_size, noise_scale))
    scorer, proposer = make_scorer(policy), make_proposer(policy)
    if actors is None:
        return build_preferences(
            policy, scorer, samples, out, seed=seed, shard_rows=shard_rows, in_flight=in_flight, proposer=proposer,
            progress=progress,
        )  # fmt: skip
    settings = describe_set(policy, scorer, proposer, seed, shard_rows)
    shards, advance = GroupShards(out, settings), progress or (lambda rows: None)
    blocks = (samples[start : start + shard_rows] for start in range(0, len(samples), shard_rows))
    todo = [position for position, _ in shards.missing(blocks, advance)]
    for _ in range(2):  # the second pass is for groups whose backend was unavailable
        unavailable = UnavailableGroups[RowPosition](actors.critics * actors.in_flight)
        for position, row in _rows(make_policy, make_scorer, make_proposer, samples, todo, settings, actors):
            shards.add(position, row)
            if not unavailable.record(position, row):
                advance(1)
            if unavailable.limit_reached:
                break
        if unavailable.limit_reached or not shards.has_rows:
            break
        todo = unavailable.groups
    shards.close(len(samples))
    return Path(out)


def _rows(
    make_policy: MakePolicy,
    make_scorer: MakeScorer,
    make_proposer: MakeProposer,
    samples: Sequence[Sample],
    positions: Sequence[RowPosition],
    settings: Settings,
    actors: RayActors,
) -> Iterator[tuple[RowPosition, bytes]]:
    """The rows of these positions, in the order in which they are finished."""
    if not positions:
        return
    ray = _ray()
    samples_ref = ray.put(samples)
    todo = [{"shard": position.shard, "row": position.row} for position in positions]
    tasks = -(-len(todo) // actors.groups_per_task)
    rows = (
        ray.data.from_items(todo, override_num_blocks=tasks)
        .map_batches(
            _PolicyActor,
            fn_constructor_args=(make_policy, make_proposer, samples_ref, settings),
            compute=ray.data.ActorPoolStrategy(size=actors.policies),
            num_cpus=actors.cpus,
            num_gpus=actors.policy_gpus,
        )
        .map_batches(
            _CriticActor,
            fn_constructor_args=(make_policy, make_scorer, samples_ref, settings, actors.in_flight),
            compute=ray.data.ActorPoolStrategy(size=actors.critics),
            num_cpus=actors.cpus,
            num_gpus=actors.critic_gpus,
        )
    )
    rows.context.enable_progress_bars = False  # the caller shows progress
    for item in rows.iter_rows():
        yield RowPosition(item["shard"], item["row"]), item["group"]


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]  (an extra)
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "building groups with actors needs Ray: pip install 'meshcritic[ray]', or pass no actors"
        ) from error
    return ray


Batch = dict[str, Any]  # columns by name, as Ray Data passes them


class _PolicyActor:
    """Samples the groups of positions."""

    def __init__(
        self, make_policy: MakePolicy, make_proposer: MakeProposer, samples_ref: Any, settings: Settings
    ) -> None:
        self.policy, self.settings = make_policy(), settings
        self.proposer = make_proposer(self.policy)
        _check_same("policy", self.policy.digest(), settings["policy_digest"])
        described = self.proposer.describe()
        _check_same("proposer", described, {name: settings.get(name) for name in described})
        self.samples: Sequence[Sample] = _ray().get(samples_ref)

    def __call__(self, batch: Batch) -> Batch:
        groups = [
            sample_group(self.policy, self.proposer, sample, self.settings)
            for sample in _samples(batch, self.samples, self.settings)
        ]
        return {**batch, "group": [encode_row(group.to_row()) for group in groups]}


class _CriticActor:
    """Scores sampled groups and returns their rows."""

    def __init__(
        self,
        make_policy: MakePolicy,
        make_scorer: MakeScorer,
        samples_ref: Any,
        settings: Settings,
        in_flight: int,
    ) -> None:
        self.scorer, self.settings, self.in_flight = make_scorer(make_policy()), settings, in_flight
        _check_same("critic", scorer_digest(self.scorer), settings["scorer_digest"])
        self.samples: Sequence[Sample] = _ray().get(samples_ref)

    def __call__(self, batch: Batch) -> Batch:
        with stoppable(ThreadPoolExecutor(self.in_flight, "scorer")) as pool:
            samples = _samples(batch, self.samples, self.settings)
            rows = list(pool.map(self._score, samples, batch["group"]))
        return {**batch, "group": rows}

    def _score(self, sample: Sample, group: bytes) -> bytes:
        return score_group(self.scorer, sample, group_of_row(decode_row(group)))


@dataclass(frozen=True)
class _Samples:
    """The `MakeProposer` of one that does not depend on the policy."""

    proposer: PolicySamples

    def __call__(self, policy: object) -> PolicySamples:
        return self.proposer


def _check_same(what: str, found: object, wanted: object) -> None:
    """Otherwise one set would hold the rows of two policies, proposers or critics."""
    if found != wanted:
        raise ValueError(
            f"this worker's {what} is {found}, not {wanted}: do all machines see the same files?"
        )


def _samples(batch: Batch, samples: Sequence[Sample], settings: Settings) -> list[Sample]:
    return [samples[i] for i in (batch["shard"] * settings["shard_rows"] + batch["row"]).tolist()]
