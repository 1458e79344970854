"""Group building on many processes or machines, by Ray Data (extra `ray`): the policy and the critic as actors.

    places to fill -> policy actors: encode, sample -> critic actors: render, judge -> this process: rl.preferences.shards

Rows come back in any order and this process alone writes them, into the files of `rl.preferences.build.build_preferences` and
byte for byte the same: exactly once, whatever is lost on the way. What goes between processes is Arrow's bytes, never a
tensor; photographs stay where they lie, and each actor reads those it is given a place of.

Retries and back-pressure are Ray Data's: an actor that dies is started again and its task done again (as often as it
takes: a group that kills every worker that touches it stops a run, and is found by its task's log), and the policy
waits where critics are behind. An exception of a policy or a critic ends the run, as it does without Ray; what was
judged before is in the journal, and the same call goes on from there.

Left out: reading images by Ray's own sources, for sets differ in more than paths; several writers, of which one is
enough (a row is some 20 KB, and costs a VLM seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmr.types import Sample, Scorer
from rl.policy_adapter import PolicyAdapter
from rl.preferences.build import (
    SamplingPolicy,
    Settings,
    build_preferences,
    describe_set,
    draw_group,
    group_of_row,
    judge_group,
)
from rl.preferences.shards import GroupShards, Place, decode_row, encode_row
from rl.scorers.identity import scorer_digest

__all__ = ["RayActors", "build_preferences_by_actors"]

MakePolicy = Callable[[], SamplingPolicy | PolicyAdapter]
MakeScorer = Callable[[Any], Scorer]  # of what MakePolicy made


@dataclass(frozen=True)
class RayActors:
    """How many actors, and what each takes of the cluster. Raises ValueError for a count below 1."""

    policies: int = 1
    critics: int = 2
    groups_a_task: int = 8  # a worker that dies does so many again
    in_flight: int = 8  # groups that a critic has with its backend at once, in threads
    cpus: float = 1.0  # of each actor
    policy_gpus: float = 0.0
    critic_gpus: float = 0.0  # 0 where the VLM is a server

    def __post_init__(self) -> None:
        for name in ("policies", "critics", "groups_a_task", "in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def build_preferences_by_actors(
    make_policy: MakePolicy,
    make_scorer: MakeScorer,
    samples: Sequence[Sample],
    out: Path,
    actors: RayActors | None,
    *,
    group_size: int = 20,
    seed: int = 0,
    shard_rows: int = 64,
    noise_scale: float = 1.0,
    in_flight: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """`rl.preferences.build.build_preferences` on the actors of a Ray cluster; without actors, in this process, where
    `in_flight` groups are with the scorer at once (actors are told so by `RayActors`).

    `make_policy` and `make_scorer` are called once in every actor, and once here for their names and digests; they are
    sent by cloudpickle, so they should open what they need by path. `samples` are sent likewise and indexed: for sets
    that are too large for that, give a sequence that reads when it is asked. Ray is started on this machine unless it
    runs already or RAY_ADDRESS names a cluster.

    Raises what `build_preferences` raises, and ValueError where Ray is not installed.
    """
    policy = make_policy()
    scorer = make_scorer(policy)
    if actors is None:
        return build_preferences(
            policy, scorer, samples, out, group_size=group_size, seed=seed, shard_rows=shard_rows,
            noise_scale=noise_scale, in_flight=in_flight, progress=progress,
        )  # fmt: skip
    settings = describe_set(policy, scorer, group_size, seed, shard_rows, noise_scale)
    shards, advance = GroupShards(out, settings), progress or (lambda rows: None)
    blocks = (samples[start : start + shard_rows] for start in range(0, len(samples), shard_rows))
    places = [place for place, _ in shards.missing(blocks, advance)]
    for place, row in _rows(make_policy, make_scorer, samples, places, settings, actors):
        shards.keep(place, row)
        advance(1)
    shards.close()
    return out


def _rows(
    make_policy: MakePolicy,
    make_scorer: MakeScorer,
    samples: Sequence[Sample],
    places: Sequence[Place],
    settings: Settings,
    actors: RayActors,
) -> Iterator[tuple[Place, bytes]]:
    """The rows of these places as they are finished."""
    if not places:
        return
    ray = _ray()
    sent = ray.put(samples)
    todo = [{"shard": place.shard, "row": place.row} for place in places]
    tasks = -(-len(todo) // actors.groups_a_task)
    rows = (
        ray.data.from_items(todo, override_num_blocks=tasks)
        .map_batches(
            _Draw,
            fn_constructor_args=(make_policy, sent, settings),
            compute=ray.data.ActorPoolStrategy(size=actors.policies),
            num_cpus=actors.cpus,
            num_gpus=actors.policy_gpus,
        )
        .map_batches(
            _Judge,
            fn_constructor_args=(make_policy, make_scorer, sent, settings, actors.in_flight),
            compute=ray.data.ActorPoolStrategy(size=actors.critics),
            num_cpus=actors.cpus,
            num_gpus=actors.critic_gpus,
        )
    )
    rows.context.enable_progress_bars = False  # who called shows its own
    for item in rows.iter_rows():
        yield Place(item["shard"], item["row"]), item["group"]


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]  (an extra)
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "building groups by actors needs Ray: pip install 'meshcritic[ray]', or give no actors"
        ) from error
    return ray


Batch = dict[str, Any]  # columns by name, as Ray Data hands them over


class _Draw:
    """A policy actor: places in, drawn groups out."""

    def __init__(self, make_policy: MakePolicy, sent: Any, settings: Settings) -> None:
        self.policy, self.settings = make_policy(), settings
        _check_same("policy", self.policy.digest(), settings["policy_digest"])
        self.samples: Sequence[Sample] = _ray().get(sent)

    def __call__(self, batch: Batch) -> Batch:
        groups = [
            draw_group(self.policy, sample, self.settings)
            for sample in _samples(batch, self.samples, self.settings)
        ]
        return {**batch, "group": [encode_row(group.to_row()) for group in groups]}


class _Judge:
    """A critic actor: drawn groups in, finished rows out."""

    def __init__(
        self, make_policy: MakePolicy, make_scorer: MakeScorer, sent: Any, settings: Settings, in_flight: int
    ) -> None:
        self.scorer, self.settings, self.in_flight = make_scorer(make_policy()), settings, in_flight
        _check_same("critic", scorer_digest(self.scorer), settings["scorer_digest"])
        self.samples: Sequence[Sample] = _ray().get(sent)

    def __call__(self, batch: Batch) -> Batch:
        with ThreadPoolExecutor(self.in_flight, "judge") as pool:
            samples = _samples(batch, self.samples, self.settings)
            rows = list(pool.map(self._judge, samples, batch["group"]))
        return {**batch, "group": rows}

    def _judge(self, sample: Sample, group: bytes) -> bytes:
        return judge_group(self.scorer, sample, group_of_row(decode_row(group)))


def _check_same(what: str, digest: str, wanted: str) -> None:
    """Or rows of two would lie under one manifest."""
    if digest != wanted:
        raise ValueError(
            f"this worker's {what} is {digest}, not {wanted}: do all machines see the same files?"
        )


def _samples(batch: Batch, samples: Sequence[Sample], settings: Settings) -> list[Sample]:
    return [samples[i] for i in (batch["shard"] * settings["shard_rows"] + batch["row"]).tolist()]
