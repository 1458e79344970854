"""Runs one training step on a dummy group and discards it, so that invalid arguments fail before a critic is called.

Training arguments are checked by transformers, accelerate and peft at different times: when the trainer is created
(`report_to`), when training starts (`gradient_checkpointing`), when the optimizer is created (`optim`). A list of our
own would be out of date with their next release, so the step is run. Failures that show later, such as a full disk, are
not found. Experiment trackers receive nothing.
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
from hmr.types import Box, Camera, Detection, Sample
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import PolicyAdapter
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer

__all__ = ["run_preflight"]

SIDE = 64  # pixels of the dummy image


def run_preflight(
    policy: DiffusionPolicy | PolicyAdapter, fields: Mapping[str, Any], samples: Sequence[Sample] = ()
) -> None:
    """Check `fields` of `GroupPreferenceConfig` with one step. The policy does not change and no file is left.

    A policy behind an adapter needs the first of `samples`, which gives the size of its coordinates; without it the
    arguments are built and no step is run. If training fails, each field is removed in turn to find those that cause
    the failure: raises ValueError that names them, or the error itself if no field causes it.
    """
    groups = _dummy_group(policy, samples)
    with tempfile.TemporaryDirectory() as folder:
        failure = _failure(policy, fields, groups, folder)
        if failure is None:
            return
        without = {name: _failure(policy, _without(fields, name), groups, folder) for name in fields}
        causes = [name for name, other in without.items() if other is None]
        minimal = {
            name: value for name, value in fields.items() if name == "trainable"
        }  # an adapter needs it
        if not causes and repr(_failure(policy, minimal, groups, folder)) == repr(failure):
            raise failure
    causes = causes or [name for name, other in without.items() if repr(other) != repr(failure)]
    reason = " ".join(str(failure).split()) or type(failure).__name__
    if all(re.search(rf"\b{name}\b", reason) for name in causes):
        raise ValueError(reason) from failure
    values = ", ".join(f"{name}: {fields[name]}" for name in causes)
    raise ValueError(f"training refuses {values} ({reason})") from failure


def _without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in fields.items() if other != name}


def _failure(
    policy: DiffusionPolicy | PolicyAdapter,
    fields: Mapping[str, Any],
    groups: GroupTensors | None,
    folder: str,
) -> Exception | None:
    # the caller may use the global generator
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            _train(policy, fields, groups, folder)
        except Exception as error:  # noqa: BLE001  (four libraries raise many types)
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
        changed["replay_weight"] = 0.0  # the caller will create the file
    on_cpu = policy.device.type == "cpu"
    args = GroupPreferenceConfig(output_dir=folder, use_cpu=on_cpu, **{**fields, **changed})
    if groups is None:
        return
    trainer = GroupPreferenceTrainer(copy.deepcopy(policy), args, groups)
    for tracker in get_reporting_integration_callbacks(args.report_to):
        trainer.remove_callback(tracker)
    args.save_strategy = SaveStrategy.NO
    trainer.train()


def _dummy_group(policy: DiffusionPolicy | PolicyAdapter, samples: Sequence[Sample]) -> GroupTensors | None:
    """A group of two hypotheses with different scores; None if the coordinates of the policy are unknown."""
    generator = derive_generator("preflight")
    if isinstance(policy, DiffusionPolicy):
        condition = policy.encode(samples[:1] or [_grey_sample()]).condition
        x0 = torch.randn(1, 2, VECTOR_SIZE, generator=generator)
    elif samples:
        condition = policy.features(samples[:1])
        x0 = policy.sample(condition, 2, generator).x0
    else:
        return None
    return GroupTensors.from_scores(condition.cpu(), x0.cpu(), [[0.0, 1.0]])


def _grey_sample() -> Sample:
    image, none = np.full((SIDE, SIDE, 3), 128, np.uint8), torch.zeros(0)
    nobody = Detection.from_points([], torch.zeros(0, 2), none, none)
    box = Box(0.0, 0.0, float(SIDE), float(SIDE))
    return Sample("preflight", image, box, Camera.estimate(SIDE, SIDE), nobody)
