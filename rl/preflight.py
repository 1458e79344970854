"""One step of training on an invented group, thrown away: what training refuses it says before a critic is paid.

Training arguments are transformers', accelerate's and peft's to check, and each does so when it comes to it: when the
trainer is made (`report_to`), when training begins (`gradient_checkpointing`), when the optimizer is made (`optim`). A
list of our own of what they refuse would be out of date with their next release, so the step is taken.

Left out: what shows later, such as a checkpoint that does not fit on the disk; and whoever is reported to, who is not
told of a rehearsal.
"""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import SaveStrategy

from common.seeding import derive_generator
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Sample
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import PolicyAdapter
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer

__all__ = ["run_preflight"]

SIDE = 64  # pixels of an invented picture


def run_preflight(
    policy: DiffusionPolicy | PolicyAdapter, fields: Mapping[str, Any], samples: Sequence[Sample] = ()
) -> None:
    """`fields` of `GroupPreferenceConfig`. The policy is not touched and nothing is left behind.

    An adapter's coordinates are known from what it makes of the first of `samples`; without any, its arguments are
    put together and no step is taken. Raises ValueError where training fails, naming the fields without which it would
    not, or not so; what fails whatever they say is raised as it is.
    """
    groups = _invented_group(policy, samples)
    with tempfile.TemporaryDirectory() as folder:
        failure = _failure(policy, fields, groups, folder)
        if failure is None:
            return
        without = {name: _failure(policy, _without(fields, name), groups, folder) for name in fields}
        cured = [name for name, left in without.items() if left is None]
        least = {name: value for name, value in fields.items() if name == "trainable"}  # an adapter needs it
        if not cured and repr(_failure(policy, least, groups, folder)) == repr(failure):
            raise failure
    guilty = cured or [name for name, left in without.items() if repr(left) != repr(failure)]
    reason = " ".join(str(failure).split()) or type(failure).__name__
    if all(re.search(rf"\b{name}\b", reason) for name in guilty):
        raise ValueError(reason) from failure
    told = ", ".join(f"{name}: {fields[name]}" for name in guilty)
    raise ValueError(f"training refuses {told} ({reason})") from failure


def _without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in fields.items() if other != name}


def _failure(
    policy: DiffusionPolicy | PolicyAdapter,
    fields: Mapping[str, Any],
    groups: GroupTensors | None,
    folder: str,
) -> Exception | None:
    # ours are derived from seeds; this is for whoever calls us and draws from the global generator
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training itself will say it
        try:
            _train(policy, fields, groups, folder)
        except Exception as error:  # noqa: BLE001  (whatever four libraries raise at an argument)
            return error
    return None


def _train(
    policy: DiffusionPolicy | PolicyAdapter,
    fields: Mapping[str, Any],
    groups: GroupTensors | None,
    folder: str,
) -> None:
    changed: dict[str, Any] = {"max_steps": 1, "push_to_hub": False}
    if fields.get("replay_file") and not Path(fields["replay_file"]).exists():
        changed["replay_weight"] = 0.0  # whoever named it will draw its scenes
    on_cpu = policy.device.type == "cpu"
    args = GroupPreferenceConfig(output_dir=folder, use_cpu=on_cpu, **{**fields, **changed})
    if groups is None:
        return
    trainer = GroupPreferenceTrainer(copy.deepcopy(policy), args, groups)
    for tracker in get_reporting_integration_callbacks(args.report_to):
        trainer.remove_callback(tracker)
    args.save_strategy = SaveStrategy.NO
    trainer.train()


def _invented_group(
    policy: DiffusionPolicy | PolicyAdapter, samples: Sequence[Sample]
) -> GroupTensors | None:
    """One hypothesis that was liked and one that was not; None where nobody knows their coordinates."""
    generator = derive_generator("rehearsal")
    if isinstance(policy, DiffusionPolicy):
        condition = policy.encode(samples[:1] or [_grey()]).condition
        x0 = torch.randn(1, 2, VECTOR_SIZE, generator=generator)
    elif samples:
        condition = policy.features(samples[:1])
        x0 = policy.sample(condition, 2, generator).x0
    else:
        return None
    return GroupTensors.from_scores(condition.cpu(), x0.cpu(), [[0.0, 1.0]])


def _grey() -> Sample:
    image = np.full((SIDE, SIDE, 3), 128, np.uint8)
    return Sample("rehearsal", image, Box(0.0, 0.0, float(SIDE), float(SIDE)), Camera.estimate(SIDE, SIDE))
