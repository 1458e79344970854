"""Alignment in rounds: sample with the current policy, score the samples, align on the scores, repeat.

Offline alignment (arXiv 2602.19180) is one round; many small rounds come close to online training, in which every step
samples and scores anew, as in GRPO. All rounds share one budget: each image is sampled and scored once, in one of the
rounds, and the optimizer steps are divided among the rounds, the first ones taking the remainder. One round and several
rounds therefore cost the same.

    OUT/round-0/groups     the groups of the round, sampled and scored (rl.preferences.build)
    OUT/round-0/policy     the policy after the round, log.json (rl.monitoring.training_log) and made_from.json, by
                           which a second run finds it; with `table_steps` also hypotheses/
                           (rl.monitoring.hypotheses_table), with `report_to: tensorboard` also tensorboard/
    OUT/config.json, ...   the policy after the last round, for `meshcritic evaluate --policy OUT`

A killed run continues at its last shard or checkpoint. Each round is a separate training: the schedule, the moments of
Adam and the averaged weights start anew. Left out: a new reference at every step of a round; within a round the
reference is the policy that sampled its groups.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from datasets import Dataset

from common.progress import Stage
from common.seeding import derive_seed
from common.storage.files import PathLike
from common.storage.fingerprint import (
    file_digest,
    has_fingerprint,
    json_digest,
    remove_fingerprint,
    stream_digest,
    write_fingerprint,
)
from common.storage.resume import last_whole_checkpoint
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detector, Sample, Scorer
from rl.config import GroupPreferenceConfig, check_loss_of_search, training_fields
from rl.monitoring.training_log import log_callback
from rl.policy_adapter import PolicyAdapter
from rl.preferences.build import Rescore, build_preferences, load_preferences
from rl.preferences.proposers import PolicySamples, Proposer
from rl.preferences.search import SearchSettings, check_policy_of_search, search_for
from rl.preferences.tables import content_of
from rl.preferences.tensors import GroupTensors
from rl.preflight import run_preflight
from rl.trainer import CallbackFactory, align

__all__ = ["Rounds", "align_in_rounds", "align_once", "checked_alignment", "finished_policy"]

TABLE_IMAGES = 4  # in a table of hypotheses
Policy = TypeVar("Policy", DiffusionPolicy, PolicyAdapter)


@dataclass(frozen=True)
class Rounds:
    """Number of rounds, and how the groups of each are sampled.

    search: hypotheses of a search (`rl.preferences.search`) with the policy of the round, in place of samples of that
        policy. `group_size` is then the search's, and `noise_scale` a field of the search.
    """

    count: int = 1
    group_size: int = 20
    seed: int = 0
    noise_scale: float = 1.0  # multiplies the starting noise: above 1 groups are wider
    in_flight: int = 1  # groups scored at once, for a critic that waits for a server
    search: SearchSettings | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"there must be at least one round, not {self.count}")
        if self.search is None:
            return
        if self.group_size != self.search.group_size:
            raise ValueError(
                f"group_size must be {self.search.group_size}, the sum of the search's parts, not {self.group_size}"
            )
        if self.noise_scale != 1:
            raise ValueError(f"noise_scale is a field of search; here it must be 1, not {self.noise_scale:g}")

    def seed_of(self, number: int) -> int:
        """The seed of one round: that of the run for the first, a hash for the others, so that no round of the run with
        seed n has the seed of the run with seed n + 1."""
        return derive_seed(self.seed, "round", number) if number else self.seed

    def steps_of(self, number: int, steps: int) -> int:
        """The number of steps of one round."""
        return steps // self.count + (number < steps % self.count)


def align_in_rounds(
    policy: Policy,
    scorer: Scorer,
    samples: Sequence[Sample],
    out: PathLike,
    alignment: Mapping[str, Any],
    rounds: Rounds,
    stage: Stage,
    *,
    rescore: Rescore | None = None,
    detector: Detector | None = None,
    body: Body | None = None,
) -> Policy:
    """Align a `DiffusionPolicy` or a policy behind an adapter (`rl.policy_adapter`); returns the final policy.

    alignment: fields of `GroupPreferenceConfig`; `max_steps` is the total of all rounds.
    rescore: changes the scores before training, for controls.
    detector: of `rounds.search`; None for the critic's, or the policy's if the critic has none.
    body: of the policy, for the table of hypotheses and the search of a critic without one; None for the embedded one.

    Raises what `checked_alignment` raises, before anything is sampled, and what `build_preferences` raises.
    """
    out = Path(out)
    alignment = checked_alignment(policy, alignment, rounds, len(samples), samples[:1])
    proposer = _proposer(policy, scorer, rounds, detector, body)
    for number in range(rounds.count):
        folder, seed, share = out / f"round-{number}", rounds.seed_of(number), samples[number :: rounds.count]
        groups = _groups(policy, scorer, proposer, share, folder, seed, rounds.in_flight, stage)
        scored = rescore(groups, seed) if rescore else groups
        arguments = {**alignment, "max_steps": rounds.steps_of(number, alignment["max_steps"])}
        tick = stage(f"round {number}: aligning on {len(groups)} groups", arguments["max_steps"])
        policy = align_once(
            policy, scored, folder / "policy", arguments, seed, tick, samples=share, body=body
        )
    policy.save_pretrained(out)
    return policy


def checked_alignment(
    policy: DiffusionPolicy | PolicyAdapter,
    alignment: Mapping[str, Any],
    rounds: Rounds,
    images: int,
    samples: Sequence[Sample] = (),
) -> dict[str, Any]:
    """The training arguments for `align_once`, checked before anything is sampled.

    A policy behind an adapter needs the first of `samples` for the check; without it only the arguments are checked.
    Raises ValueError for arguments that `training_fields` or one training step (`rl.preflight`) rejects, fewer images
    or steps than rounds, a warm-up as long as a round, a table that cannot be drawn, search with another loss than
    `resample`, and evaluation, because no group is held out.
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
    if rounds.search is not None:
        check_loss_of_search(fields.get("loss_type", GroupPreferenceConfig.loss_type))
        check_policy_of_search(policy)
    _check_table(policy, fields.get("table_steps", 0))
    run_preflight(policy, fields, samples)
    return fields


def _proposer(
    policy: DiffusionPolicy | PolicyAdapter,
    scorer: Scorer,
    rounds: Rounds,
    detector: Detector | None,
    body: Body | None,
) -> Proposer:
    if rounds.search is None:
        return PolicySamples(rounds.group_size, rounds.noise_scale)
    return search_for(check_policy_of_search(policy), scorer, rounds.search, body or load_body(), detector)


def _groups(
    policy: Policy,
    scorer: Scorer,
    proposer: Proposer,
    samples: Sequence[Sample],
    folder: Path,
    seed: int,
    in_flight: int,
    stage: Stage,
) -> Dataset:
    tick = stage(f"{folder.name}: {len(samples)} groups sampled and scored", len(samples))
    done = itertools.count(1)

    def advance(rows: int) -> None:
        for _ in range(rows):
            tick(next(done))

    build_preferences(
        policy,
        scorer,
        samples,
        folder / "groups",
        seed=seed,
        in_flight=in_flight,
        proposer=proposer,
        progress=advance,
    )
    return load_preferences(folder / "groups")


def align_once(
    policy: Policy,
    groups: Dataset | GroupTensors,
    folder: PathLike,
    alignment: Mapping[str, Any],
    seed: int,
    tick: Callable[[int], None],
    *,
    samples: Sequence[Sample] = (),
    body: Body | None = None,
) -> Policy:
    """Align on the groups and save the policy in `folder`; a policy saved there by an equal run is loaded instead.

    A killed run resumes from the checkpoints of the trainer. `tick` receives the number of every step. With
    `table_steps` in the arguments, hypotheses of the first of `samples` (the photographs of the groups) are drawn into
    `folder`, with `body` or else the embedded one. Raises ValueError if there are no samples to draw, or if the policy
    has no SMPL bodies or was trained with another body.
    """
    folder = Path(folder)
    if (finished := finished_policy(policy, groups, folder, alignment, seed)) is not None:
        return finished
    alignment = training_fields(alignment)
    fingerprint = _fingerprint(policy, groups, alignment, seed)
    # named by its inputs, so that the checkpoints of another run in the same folder are not used
    work = folder / f"trainer-{json_digest(fingerprint, 12)}"
    checkpoint = last_whole_checkpoint(work, unended=True)
    arguments = GroupPreferenceConfig(
        output_dir=str(work),
        seed=seed,
        use_cpu=policy.device.type == "cpu",
        resume_from_checkpoint=checkpoint,
        **alignment,
    )
    # a checkpoint's name ends with its step
    steps = itertools.count(1 + (int(checkpoint.rpartition("-")[2]) if checkpoint else 0))
    callbacks = _table(policy, groups, folder / "hypotheses", samples, arguments.table_steps, body)
    callbacks.append(lambda trainer: log_callback(trainer, folder, work.name))
    remove_fingerprint(folder)  # the log of this run must not stand beside the record of another
    aligned = align(policy, groups, arguments, progress=lambda step: tick(next(steps)), callbacks=callbacks)
    aligned.save_pretrained(folder)
    write_fingerprint(folder, fingerprint)
    shutil.rmtree(work, ignore_errors=True)  # only an interrupted run needs its checkpoints
    return _load(policy, folder)


def _table(
    policy: DiffusionPolicy | PolicyAdapter,
    groups: Dataset | GroupTensors,
    out: Path,
    samples: Sequence[Sample],
    every: int,
    body: Body | None,
) -> list[CallbackFactory]:
    if not every:
        return []
    _check_table(policy, every, bool(samples))
    if isinstance(groups, GroupTensors):
        raise ValueError("table_steps draws the bodies of a preference set; tensors of groups have none")
    from rl.monitoring.hypotheses_table import HypothesesTable  # imports the renderers

    shown = {sample.id: sample for sample in samples[:TABLE_IMAGES]}
    return [lambda trainer: HypothesesTable(trainer, body or load_body(), shown, groups, out, every)]


def _check_table(policy: DiffusionPolicy | PolicyAdapter, every: int, photographs: bool = True) -> None:
    if every and (isinstance(policy, PolicyAdapter) or not photographs):
        raise ValueError(
            "table_steps draws SMPL bodies over their photographs: it needs the samples and a DiffusionPolicy"
        )


def finished_policy(
    policy: Policy,
    groups: Dataset | GroupTensors,
    folder: PathLike,
    alignment: Mapping[str, Any],
    seed: int | None = None,
) -> Policy | None:
    """The policy that an earlier run saved in `folder` from the same policy, groups, settings and seed, else None. With
    `seed` None the seed is not compared."""
    fingerprint = _fingerprint(policy, groups, training_fields(alignment), seed)
    return _load(policy, Path(folder)) if has_fingerprint(Path(folder), fingerprint) else None


def _load(policy: Policy, folder: Path) -> Policy:
    """The policy saved in `folder`, of the same kind, on the same device and with the same detector as `policy`."""
    if not isinstance(policy, PolicyAdapter):
        loaded = load_policy(folder, detector=policy.detector)
        loaded.to(policy.device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides the signature)
        return cast(Policy, loaded)
    policy = copy.deepcopy(policy)
    policy.load_weights(folder)
    return policy


def _fingerprint(
    policy: DiffusionPolicy | PolicyAdapter,
    groups: Dataset | GroupTensors,
    alignment: Mapping[str, Any],
    seed: int | None,
) -> dict[str, Any]:
    """Everything that the aligned weights depend on. The replay file counts by its content, not by its path."""
    content = content_of(groups) if isinstance(groups, Dataset) else groups.contents()
    file = alignment.get("replay_file")
    return {
        "policy": policy.digest(),
        "groups": stream_digest(content),
        "alignment": {name: value for name, value in alignment.items() if name != "replay_file"},
        "replay": file_digest(Path(file)) if file and alignment.get("replay_weight") else None,
        **({} if seed is None else {"seed": seed}),
    }
