"""Alignment as a loop: sample with the current policy, have it scored, align on the scores, and again.

Offline alignment (arXiv 2602.19180) is one round; many small rounds come near the online extreme, GRPO's loop of
sample, score, step. Rounds share one budget: each image is sampled and scored once, in the round that it falls to, and
the optimizer's steps are divided among the rounds: one round and several cost the same and end at the same step.

    OUT/round-0/groups     what the round sampled and how it was scored (rl.preferences)
    OUT/round-0/policy     what it ended with, and made_from.json, by which a second run knows it; where asked for by
                           `table_steps`, hypotheses/ with pictures of how it got there (rl.hypotheses_table)
    OUT/config.json, ...   the last round's policy, which `meshcritic evaluate --policy OUT` reads

A killed run goes on at the shard or the checkpoint it had reached. Left out: a fresh reference for every step of a
round; within a round the reference is the policy that sampled its groups.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hmr.checkpoint import load_policy
from hmr.policy import DiffusionPolicy
from hmr.progress import Stage
from hmr.types import Sample, Scorer
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import PolicyAdapter
from rl.preferences import build_preferences, load_preferences
from rl.trainer import GroupPreferenceTrainer, align

__all__ = ["Rounds", "align_in_rounds", "align_once", "kept_policy"]

MADE_FROM = "made_from.json"
SHOWN = 4  # images of a table of hypotheses
Policy = TypeVar("Policy", DiffusionPolicy, PolicyAdapter)
Rescore = Callable[[Dataset, int], Dataset]  # (groups, seed) -> the same groups under other scores


@dataclass(frozen=True)
class Rounds:
    """How often, and on how much a round."""

    count: int = 1
    group_size: int = 20
    seed: int = 0
    noise_scale: float = 1.0  # of the starting noise: above 1 groups spread
    in_flight: int = 1  # groups that are with the critic at once, for one that waits for a server

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"there must be at least one round, not {self.count}")


def align_in_rounds(
    policy: Policy,
    scorer: Scorer,
    samples: Sequence[Sample],
    out: Path,
    alignment: Mapping[str, Any],
    rounds: Rounds,
    stage: Stage,
    rescore: Rescore | None = None,
) -> Policy:
    """The policy after the last round: ours, or one behind an adapter (`rl.policy_adapter`).

    `alignment`: fields of `GroupPreferenceConfig`, its `max_steps` for all rounds together. `rescore` changes the
    scores before they are learned from, as a control does.

    Raises ValueError for fewer images or steps than rounds, and what `build_preferences` raises.
    """
    steps = int(alignment.get("max_steps", GroupPreferenceConfig.max_steps))
    if min(len(samples), steps) < rounds.count:
        raise ValueError(
            f"{rounds.count} rounds need as many images and steps, not {len(samples)} and {steps}"
        )
    for number in range(rounds.count):
        folder, seed, share = out / f"round-{number}", rounds.seed + number, samples[number :: rounds.count]
        groups = _groups(policy, scorer, share, folder, rounds, seed, stage)
        learned_from = rescore(groups, seed) if rescore else groups
        arguments = {**alignment, "max_steps": steps // rounds.count}
        tick = stage(f"round {number}: aligning on {len(groups)} groups", arguments["max_steps"])
        policy = align_once(policy, learned_from, folder / "policy", arguments, seed, tick, share)
    policy.save_pretrained(out)
    return policy


def _groups(
    policy: Policy,
    scorer: Scorer,
    samples: Sequence[Sample],
    folder: Path,
    rounds: Rounds,
    seed: int,
    stage: Stage,
) -> Dataset:
    tick = stage(f"{folder.name}: {len(samples)} groups sampled and scored", len(samples))
    done = itertools.accumulate(itertools.repeat(1))

    def advance(rows: int) -> None:
        for _ in range(rows):
            tick(next(done))

    build_preferences(
        policy,
        scorer,
        samples,
        folder / "groups",
        group_size=rounds.group_size,
        seed=seed,
        noise_scale=rounds.noise_scale,
        in_flight=rounds.in_flight,
        progress=advance,
    )
    return load_preferences(folder / "groups")


def align_once(
    policy: Policy,
    groups: Dataset,
    folder: Path,
    alignment: Mapping[str, Any],
    seed: int,
    tick: Callable[[int], None],
    samples: Sequence[Sample] = (),
) -> Policy:
    """The policy aligned on the groups, kept in `folder` and found there again; resumes from the trainer's own
    checkpoints. `tick` is told of every step.

    Where training arguments give `table_steps`, hypotheses on the first of `samples`, photographs that groups are of,
    are drawn into `folder`. Raises ValueError where there are none, or no bodies to draw.
    """
    if (kept := kept_policy(policy, groups, folder, alignment)) is not None:
        return kept
    origin = _origin(policy, groups, alignment)
    # named after what it trains: another run's checkpoints in the same folder are not taken up
    trainer = (
        folder / f"trainer-{hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]}"
    )
    arguments = GroupPreferenceConfig(
        output_dir=str(trainer),
        seed=seed,
        use_cpu=policy.device.type == "cpu",
        resume_from_checkpoint=get_last_checkpoint(str(trainer)) if trainer.exists() else None,
        **alignment,
    )
    steps = itertools.count(1)
    watch = _table(policy, groups, folder / "hypotheses", samples, arguments.table_steps)
    aligned = align(policy, groups, arguments, progress=lambda step: tick(next(steps)), watch=watch)
    aligned.save_pretrained(folder)
    shutil.rmtree(trainer, ignore_errors=True)  # only an interrupted run needs its checkpoints
    (folder / MADE_FROM).write_text(json.dumps(origin))
    return _load(policy, folder)


def _table(
    policy: DiffusionPolicy | PolicyAdapter, groups: Dataset, out: Path, samples: Sequence[Sample], every: int
) -> Callable[[GroupPreferenceTrainer], TrainerCallback] | None:
    if not every:
        return None
    if not samples or isinstance(policy, PolicyAdapter):
        raise ValueError(
            "table_steps draws SMPL bodies over their photographs: it needs the samples and a DiffusionPolicy"
        )
    from rl.hypotheses_table import HypothesesTable  # renderers

    shown = {sample.id: sample for sample in samples[:SHOWN]}
    return lambda trainer: HypothesesTable(trainer, shown, groups, out, every)


def kept_policy(policy: Policy, groups: Dataset, folder: Path, alignment: Mapping[str, Any]) -> Policy | None:
    """What an earlier run left in `folder`, if it came of the same policy, groups and settings."""
    path = folder / MADE_FROM
    if not path.exists() or json.loads(path.read_text()) != _origin(policy, groups, alignment):
        return None
    return _load(policy, folder)


def _load(policy: Policy, folder: Path) -> Policy:
    """What was saved there, as a policy of the same kind."""
    if not isinstance(policy, PolicyAdapter):
        return cast(Policy, load_policy(folder))
    policy = copy.deepcopy(policy)
    policy.load_weights(folder)
    return policy


def _origin(
    policy: DiffusionPolicy | PolicyAdapter, groups: Dataset, alignment: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "policy": policy.digest(),
        "groups": hashlib.sha256(repr(groups[:]).encode()).hexdigest()[:16],
        "alignment": dict(alignment),
    }
