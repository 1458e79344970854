"""Alignment by policy gradient on the denoising chain: sample, score and update, online.

    OUT/update-00000         the groups of an update with their scores (rl.preferences.build)
    OUT/checkpoint-N         the run after N updates, until it ends (rl.policy_gradient.checkpoint)
    OUT/config.json, ...     the policy after the last update, with averaged weights
    OUT/log.json             one line per update, the last with the digest of the policy; written after it, so a folder
                             with a log of its policy holds a finished run
    OUT/made_from.json       the inputs of the run; the folder is refused for others

The preference losses (`rl.rounds`) learn from stored groups, whose chains are unknown, by a bound on the likelihood of
x_0. Here the chains are known, so the likelihood of every step is exact, and every update learns from hypotheses of the
present policy. The cost is a budget of `updates` x `images_per_update` critiques. Images are taken in an order that the
seed decides, each as often as any other.

A killed run continues with the group that was being scored. All that is random is derived from the seed and the number
of the update, so a resumed run ends with the weights of an unbroken one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.progress import Stage
from common.seeding import derive_generator, derive_seed
from common.storage.files import PathLike, write_text
from common.storage.fingerprint import claim_run, json_digest
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample, Scorer
from rl.monitoring.metrics import score_metrics
from rl.monitoring.spread_callback import estimated_visibility, spread_by_visibility
from rl.monitoring.training_log import LOG
from rl.policy_gradient.chain import chain_steps
from rl.policy_gradient.checkpoint import CHECKPOINTS, remove_checkpoints, resume, save_checkpoint
from rl.policy_gradient.config import PolicyGradientConfig
from rl.policy_gradient.updates import PolicyGradient
from rl.preferences.build import Rescore, describe_set, identity_of, load_preferences, score_groups
from rl.preferences.proposers import PolicySamples, Proposal
from rl.preferences.shards import SHARD_PATTERN, UNFINISHED, RowPosition, image_sha256
from rl.preferences.tensors import tensors_from_preferences
from rl.scorers.identity import scorer_digest
from rl.types import PreferenceGroup

__all__ = ["align_by_policy_gradient", "check_policy_gradient", "update_folders"]

UPDATES = "update-*"
POLICY = "policy"  # in the last line of the log
OUTPUTS = (
    f"{UPDATES}/{SHARD_PATTERN}",
    f"{UPDATES}/{UNFINISHED}/*",
    CHECKPOINTS,
    LOG,
)  # not an update without scores


def align_by_policy_gradient(
    policy: DiffusionPolicy,
    scorer: Scorer,
    samples: Sequence[Sample],
    out: PathLike,
    settings: PolicyGradientConfig,
    *,
    seed: int,
    stage: Stage,
    rescore: Rescore | None = None,
    in_flight: int = 1,
) -> DiffusionPolicy:
    """The aligned policy, also saved in `out`; a second run loads it. `policy` itself does not change.

    rescore: changes the scores of each update before it is taken, for controls.
    in_flight: number of groups scored at once, for a critic that waits for a server.

    Raises what `check_policy_gradient` raises, ValueError if `out` holds another run, and what `build_preferences`
    raises: if the critic becomes unavailable the run stops, and the same call continues it.
    """
    out = Path(out)
    check_policy_gradient(policy, settings, len(samples))
    claim_run(out, _fingerprint(policy, scorer, samples, settings, seed, rescore), OUTPUTS)
    saved = _finished_policy(policy, out)
    if saved is None:
        run = PolicyGradient(policy, settings, seed)
        log = resume(run, out)
        size, order = settings.images_per_update, _image_order(len(samples), settings.critiques, seed)
        tick = stage(f"policy gradient: {settings.updates} updates of {size} groups", settings.critiques)
        scored = itertools.count(1 + len(log) * size)

        def advance(rows: int) -> None:
            for _ in range(rows):
                tick(next(scored))

        # elsewhere an update that is computed again may have other bits, and its scored groups would be refused
        every = settings.checkpoint_updates if policy.device.type == "cpu" else 1
        for number in range(len(log), settings.updates):
            shown = [samples[row] for row in order[number * size : (number + 1) * size]]
            log.append(_take_update(run, scorer, shown, number, out, rescore, in_flight, advance))
            if (number + 1) % every == 0:
                save_checkpoint(run, log, out)
        aligned = run.finished()
        aligned.save_pretrained(out)
        log[-1][POLICY] = aligned.digest()
        write_text(out / LOG, json.dumps(log, indent=1))
        saved = _saved_policy(policy, out)
    remove_checkpoints(out)
    return saved


def _finished_policy(policy: DiffusionPolicy, out: Path) -> DiffusionPolicy | None:
    """The policy in `out` if the log there ends with its digest; None if no run ended or the policy is another's."""
    if not (out / LOG).exists():
        return None
    last = json.loads((out / LOG).read_text())[-1]
    saved = _saved_policy(policy, out)
    return saved if last.get(POLICY) == saved.digest() else None


def _saved_policy(policy: DiffusionPolicy, out: Path) -> DiffusionPolicy:
    return load_policy(out, str(policy.device), detector=policy.detector)


def check_policy_gradient(policy: DiffusionPolicy, settings: PolicyGradientConfig, images: int) -> None:
    """Raises ValueError for a policy or a number of images that the settings do not fit, before anything is sampled."""
    if not isinstance(policy, DiffusionPolicy):
        raise ValueError(f"the policy gradient needs a DiffusionPolicy, not {type(policy).__name__}")
    chain_steps(policy, settings.steps, settings.eta)
    if images < settings.images_per_update:
        raise ValueError(
            f"images_per_update must be at most {images}, the number of images, not {settings.images_per_update}"
        )


def update_folders(out: PathLike) -> list[Path]:
    """The preference sets of the updates so far, in order."""
    return sorted(Path(out).glob(UPDATES))


def _take_update(
    run: PolicyGradient,
    scorer: Scorer,
    samples: Sequence[Sample],
    number: int,
    out: Path,
    rescore: Rescore | None,
    in_flight: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Sample, score and update; returns the line of the log."""
    features = run.policy.encode(samples)
    chains = run.sample(features, number)
    hypotheses = run.policy.hypotheses(chains.x0, features)
    manifest = _manifest(run, scorer, number)

    def draw(position: RowPosition, sample: Sample) -> PreferenceGroup:
        row = position.row
        return Proposal(hypotheses[row], features[row : row + 1]).unscored(**identity_of(sample, manifest))

    folder = out / f"update-{number:05d}"
    score_groups(draw, scorer, samples, folder, manifest, in_flight=in_flight, progress=advance)
    groups = load_preferences(folder)
    if rescore is not None:
        groups = rescore(groups, derive_seed(run.seed, "update", number))
    scored = tensors_from_preferences(run.policy, groups, run.settings.advantage_settings())
    figures = {
        **score_metrics(scored.scores, scored.mask, scored.rewards),
        **run.update(features, chains, scored.advantages, scored.mask, number),
        **spread_by_visibility(
            run.policy.feedback.points, hypotheses, estimated_visibility(features.condition.cpu())
        ),
    }
    line = {name: float(value) for name, value in figures.items()}
    return {"step": number + 1, **{name: value for name, value in line.items() if math.isfinite(value)}}


def _manifest(run: PolicyGradient, scorer: Scorer, number: int) -> dict[str, Any]:
    """Of the groups of an update, which are one shard."""
    settings = run.settings
    chain = {"update": number, "steps": settings.steps, "eta": settings.eta}
    proposer = PolicySamples(settings.group_size)
    return {**describe_set(run.policy, scorer, proposer, run.seed, settings.images_per_update), **chain}


def _image_order(images: int, count: int, seed: int) -> list[int]:
    """The numbers of the images that are critiqued, in order: one permutation after the other."""
    passes = range(math.ceil(count / images))
    orders = [torch.randperm(images, generator=derive_generator(seed, "images", number)) for number in passes]
    return torch.cat(orders)[:count].tolist()


def _fingerprint(
    policy: DiffusionPolicy,
    scorer: Scorer,
    samples: Sequence[Sample],
    settings: PolicyGradientConfig,
    seed: int,
    rescore: Rescore | None,
) -> dict[str, Any]:
    """Everything that the aligned weights depend on."""
    return {
        "policy": policy.digest(),
        "scorer": scorer_digest(scorer),
        "images": json_digest([[sample.id, image_sha256(sample)] for sample in samples]),
        "settings": dataclasses.asdict(settings),
        "seed": seed,
        "rescore": getattr(rescore, "__qualname__", None),
    }
