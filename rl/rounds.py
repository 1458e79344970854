"""Alignment as a loop: sample with the current policy, have it scored, align on the scores, and again.

Offline alignment (arXiv 2602.19180) is one round; many small rounds come near the online extreme, GRPO's loop of
sample, score, step. Rounds share one budget: each image is sampled and scored once, in the round that it falls to, and
the optimizer's steps are divided among the rounds, the first ones taking what does not divide: one round and several
cost the same and end at the same step.

    OUT/round-0/groups     what the round sampled and how it was scored (rl.preferences.build)
    OUT/round-0/policy     what it ended with, log.json of how it went (rl.monitoring.training_log), and made_from.json, by which a
                           second run knows it; where asked for by `table_steps`, hypotheses/ with pictures of the way
                           there (rl.monitoring.hypotheses_table), and by `report_to: tensorboard`, tensorboard/
    OUT/config.json, ...   the last round's policy, which `meshcritic evaluate --policy OUT` reads

A killed run goes on at the shard or the checkpoint it had reached. Every round is a training of its own: schedule,
Adam's moments and averaged weights begin anew. Left out: a fresh reference for every step of a round; within a round
the reference is the policy that sampled its groups.
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

from common.fingerprint import has_fingerprint, remove_fingerprint, write_fingerprint
from common.progress import Stage
from common.resume import last_whole_checkpoint
from common.seeding import derive_seed
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample, Scorer
from rl.config import GroupPreferenceConfig, training_fields
from rl.monitoring.training_log import keep_log
from rl.policy_adapter import PolicyAdapter
from rl.preferences.build import build_preferences, load_preferences
from rl.preflight import run_preflight
from rl.trainer import Watch, align

__all__ = ["Rounds", "align_in_rounds", "align_once", "checked_alignment", "finished_policy"]

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

    def seed_of(self, number: int) -> int:
        """Of one round. The first has the run's own; those of the others are no neighbours of it, for seeds are counted
        up and two runs must not draw the same."""
        return derive_seed(self.seed, "round", number) if number else self.seed

    def steps_of(self, number: int, steps: int) -> int:
        """Its share of all steps."""
        return steps // self.count + (number < steps % self.count)


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

    Raises what `checked_alignment` and `build_preferences` raise, the former before anything is sampled.
    """
    alignment = checked_alignment(policy, alignment, rounds, len(samples), samples[:1])
    for number in range(rounds.count):
        folder, seed, share = out / f"round-{number}", rounds.seed_of(number), samples[number :: rounds.count]
        groups = _groups(policy, scorer, share, folder, rounds, seed, stage)
        learned_from = rescore(groups, seed) if rescore else groups
        arguments = {**alignment, "max_steps": rounds.steps_of(number, alignment["max_steps"])}
        tick = stage(f"round {number}: aligning on {len(groups)} groups", arguments["max_steps"])
        policy = align_once(policy, learned_from, folder / "policy", arguments, seed, tick, share)
    policy.save_pretrained(out)
    return policy


def checked_alignment(
    policy: DiffusionPolicy | PolicyAdapter,
    alignment: Mapping[str, Any],
    rounds: Rounds,
    images: int,
    samples: Sequence[Sample] = (),
) -> dict[str, Any]:
    """The training arguments as `align_once` will be given them, tried before anything has been paid for.

    A policy behind an adapter is tried on the first of `samples`; without one, only what needs no policy is looked at.
    Raises ValueError for what `training_fields` or a step of training (`rl.preflight`) refuses, fewer images or steps
    than rounds, a warm-up as long as a round, pictures that cannot be drawn, and evaluation, for which there are no
    groups.
    """
    fields = {"max_steps": GroupPreferenceConfig.max_steps, **training_fields(alignment)}
    if (strategy := fields.get("eval_strategy", "no")) != "no":
        raise ValueError(f"eval_strategy must be no, not {strategy}: no group is held out")
    if min(images, fields["max_steps"]) < rounds.count:
        raise ValueError(
            f"{rounds.count} rounds need as many images and steps, not {images} and {fields['max_steps']}"
        )
    shortest, warmup = rounds.steps_of(rounds.count - 1, fields["max_steps"]), fields.get("warmup_steps", 0)
    if warmup >= shortest:
        raise ValueError(f"warmup_steps must be below the {shortest} steps of a round, not {warmup:g}")
    _check_table(policy, fields.get("table_steps", 0))
    run_preflight(policy, fields, samples)
    return fields


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
    if (kept := finished_policy(policy, groups, folder, alignment, seed)) is not None:
        return kept
    alignment = training_fields(alignment)
    origin = _origin(policy, groups, alignment, seed)
    # named after what it trains: another run's checkpoints in the same folder are not taken up
    trainer = (
        folder / f"trainer-{hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]}"
    )
    checkpoint = last_whole_checkpoint(trainer, unended=True)
    arguments = _config(policy, alignment, str(trainer), seed, checkpoint)
    steps = itertools.count(1 + _step_of(checkpoint))
    watches = _table(policy, groups, folder / "hypotheses", samples, arguments.table_steps)
    watches.append(lambda made: keep_log(made, folder, trainer.name))
    remove_fingerprint(folder)  # the log of this run must not lie beside another's label
    aligned = align(policy, groups, arguments, progress=lambda step: tick(next(steps)), watches=watches)
    aligned.save_pretrained(folder)
    write_fingerprint(folder, origin)
    shutil.rmtree(trainer, ignore_errors=True)  # only an interrupted run needs its checkpoints
    return _load(policy, folder)


def _config(
    policy: DiffusionPolicy | PolicyAdapter,
    alignment: Mapping[str, Any],
    folder: str,
    seed: int,
    checkpoint: str | None = None,
) -> GroupPreferenceConfig:
    return GroupPreferenceConfig(
        output_dir=folder,
        seed=seed,
        use_cpu=policy.device.type == "cpu",
        resume_from_checkpoint=checkpoint,
        **alignment,
    )


def _step_of(checkpoint: str | None) -> int:
    """The step that it was written after: transformers puts it at the end of the name."""
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def _table(
    policy: DiffusionPolicy | PolicyAdapter, groups: Dataset, out: Path, samples: Sequence[Sample], every: int
) -> list[Watch]:
    if not every:
        return []
    _check_table(policy, every, bool(samples))
    from rl.monitoring.hypotheses_table import HypothesesTable  # renderers

    shown = {sample.id: sample for sample in samples[:SHOWN]}
    return [lambda trainer: HypothesesTable(trainer, shown, groups, out, every)]


def _check_table(policy: DiffusionPolicy | PolicyAdapter, every: int, photographs: bool = True) -> None:
    if every and (isinstance(policy, PolicyAdapter) or not photographs):
        raise ValueError(
            "table_steps draws SMPL bodies over their photographs: it needs the samples and a DiffusionPolicy"
        )


def finished_policy(
    policy: Policy, groups: Dataset, folder: Path, alignment: Mapping[str, Any], seed: int | None = None
) -> Policy | None:
    """What an earlier run left in `folder`, if it came of the same policy, groups, settings and seed; None for a seed
    asks for no certain one."""
    origin = _origin(policy, groups, training_fields(alignment), seed)
    return _load(policy, folder) if has_fingerprint(folder, origin) else None


def _load(policy: Policy, folder: Path) -> Policy:
    """What was saved there, as a policy of the same kind in the same place."""
    if not isinstance(policy, PolicyAdapter):
        loaded = load_policy(folder)
        loaded.to(policy.device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides the signature)
        return cast(Policy, loaded)
    policy = copy.deepcopy(policy)
    policy.load_weights(folder)
    return policy


def _origin(
    policy: DiffusionPolicy | PolicyAdapter, groups: Dataset, alignment: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """What shapes the weights; a file of scenes by what is in it, wherever it lies."""
    told = {name: value for name, value in alignment.items() if name != "replay_file"}
    file = alignment.get("replay_file")
    return {
        "policy": policy.digest(),
        "groups": hashlib.sha256(repr(groups[:]).encode()).hexdigest()[:16],
        "alignment": told,
        "replay": _file_digest(file) if file and alignment.get("replay_weight") else None,
        **({} if seed is None else {"seed": seed}),
    }


def _file_digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
