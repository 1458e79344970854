"""A training step of alignment and three other implementations of it, for `benchmarks.performance.alignment_step`.

| step              | the detections                   | the reference          | the hypotheses of a batch           |
|-------------------|----------------------------------|------------------------|-------------------------------------|
| `trainer`         | encoded once, before training    | the initial weights of | in one forward pass; a group shares |
|                   |                                  | the denoiser, swapped  | the condition of its image          |
|                   |                                  | in for a forward pass  |                                     |
| `reencode`        | encoded by both models, per step | a second model         | in one forward pass, each as a row  |
|                   |                                  |                        | with its own copy of the condition  |
| `reencode_shared` | encoded by both models, per step | a second model         | as in `trainer`                     |
| `loop`            | encoded once, before training    | a second model         | one after another                   |

`trainer` is `rl.trainer.GroupPreferenceTrainer` with its metrics, data loader and random draws. The others are minimal:
one loss, AdamW, the same gradient clipping and averaging of weights, no log. All use the one-sided clip of `rl.losses`
at the same times, and their gradients are equal (tests/benchmarks). `reencode` is a batched step as in other diffusion
trainers; `reencode_shared` differs from `trainer` only in the features and the reference.

    python -m benchmarks.performance.alignment_step_variants STEP BATCH GROUP TIMES STEPS [POLICY]

prints one JSON object: the wall time and the CPU time of every step, and the peak memory.

Detections and hypotheses are noise, because the cost of a step does not depend on them. Left out: bf16.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.performance.figure import peak_mib
from common.seeding import derive_generator
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from rl.config import GroupPreferenceConfig
from rl.losses import LossSettings, clip, log_ratio
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer, draw_times_and_noise

__all__ = ["Batch", "draw_batch", "loop", "measure", "reencode"]

SETTINGS = LossSettings()
MAX_GRAD_NORM = 1.0
LEARNING_RATE = 1e-4
StepTime = tuple[float, float]  # seconds of wall time, and of CPU time summed over CPUs


@dataclass(frozen=True)
class Batch:
    """B images with their groups, before any encoding."""

    features: Float[Tensor, "batch features"]  # of detections
    x0: Float[Tensor, "batch group dim"]
    advantages: Float[Tensor, "batch group"]
    timesteps: Int[Tensor, "batch steps"]
    noise: Float[Tensor, "batch steps dim"]


def draw_batch(policy: DiffusionPolicy, images: int, group: int, times: int) -> Batch:
    generator = derive_generator(0, "bench align")
    length = policy.config.num_train_timesteps
    generators = [derive_generator(0, "bench align", row) for row in range(images)]
    timesteps, noise = draw_times_and_noise(generators, times, (0, length), policy.mean.shape[0])
    scores = torch.randn(images, group, generator=generator)
    return Batch(
        features=torch.randn(images, policy.feature_size, generator=generator),
        x0=torch.randn(images, group, policy.mean.shape[0], generator=generator),
        advantages=(scores - scores.mean(1, keepdim=True)) / scores.std(1, correction=0, keepdim=True),
        timesteps=timesteps,
        noise=noise,
    )


@torch.no_grad()
def encoded(policy: DiffusionPolicy, batch: Batch) -> Float[Tensor, "batch channels"]:
    """The condition of each detection."""
    return policy.condition(batch.features)


def reencode(policy: DiffusionPolicy, reference: DiffusionPolicy, batch: Batch, shared: bool) -> None:
    """Gradients of a step in which both models start from the detections; `shared`: a group shares one condition."""
    with torch.no_grad():
        reference_error = _errors(reference, batch, shared)
    ratio = log_ratio(_errors(policy, batch, shared), reference_error, SETTINGS.beta)
    clip(ratio, batch.advantages, torch.ones_like(batch.advantages, dtype=torch.bool), SETTINGS).backward()


def _errors(policy: DiffusionPolicy, batch: Batch, shared: bool) -> Float[Tensor, "batch group steps"]:
    condition = encoded(policy, batch)
    if shared:
        return policy(condition, batch.x0, batch.timesteps, batch.noise)
    group = batch.x0.shape[1]
    rows = [item.repeat_interleave(group, dim=0) for item in (condition, batch.timesteps, batch.noise)]
    errors = policy(rows[0], batch.x0.flatten(0, 1)[:, None], *rows[1:])
    return errors[:, 0].unflatten(0, (-1, group))


def loop(
    policy: DiffusionPolicy,
    reference: DiffusionPolicy,
    batch: Batch,
    condition: Float[Tensor, "batch channels"],
) -> None:
    """Gradients of a step that processes one hypothesis after another, at all its times."""
    images, group = batch.advantages.shape
    mask = torch.ones(1, 1, dtype=torch.bool)
    for image in range(images):
        row = slice(image, image + 1)
        for member in range(group):
            one = (row, slice(member, member + 1))
            inputs = (condition[row], batch.x0[one], batch.timesteps[row], batch.noise[row])
            with torch.no_grad():
                reference_error = reference(*inputs)
            ratio = log_ratio(policy(*inputs), reference_error, SETTINGS.beta)
            (clip(ratio, batch.advantages[one], mask, SETTINGS) / (images * group)).backward()


def measure(step: str, policy: DiffusionPolicy, batch: Batch, steps: int) -> list[StepTime]:
    """The time of each of `steps` steps; a first step is not counted."""
    if step == "trainer":
        return _time_trainer(policy, batch, steps)
    reference = copy.deepcopy(policy).eval()
    policy.requires_grad_(False).eval().denoiser.requires_grad_(True)
    if step != "loop":
        shared = step == "reencode_shared"
        return _time_gradients(policy, lambda: reencode(policy, reference, batch, shared), steps)
    condition = encoded(policy, batch)
    return _time_gradients(policy, lambda: loop(policy, reference, batch, condition), steps)


def _time_gradients(policy: DiffusionPolicy, gradients: Callable[[], None], steps: int) -> list[StepTime]:
    trained = list(policy.denoiser.parameters())
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    average = EMAModel(trained, decay=0.99, foreach=True)
    clock = _Clock()
    for _ in range(steps + 1):
        gradients()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        average.step(trained)
        clock.step_ends()
    return clock.times()


class _Clock(TrainerCallback):
    """Measures from the end of one step to the end of the next, including loading, random draws and metrics."""

    def __init__(self) -> None:
        self.ends: list[StepTime] = []

    def step_ends(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_ends()

    def times(self) -> list[StepTime]:
        pairs = zip(self.ends, self.ends[1:], strict=False)
        return [(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def _time_trainer(policy: DiffusionPolicy, batch: Batch, steps: int) -> list[StepTime]:
    images, clock = len(batch.x0), _Clock()
    groups = GroupTensors(
        encoded(policy, batch),
        batch.x0,
        batch.advantages,
        torch.ones_like(batch.advantages, dtype=torch.bool),
        batch.advantages,
    )
    with tempfile.TemporaryDirectory() as folder:
        args = GroupPreferenceConfig(
            output_dir=folder,
            max_steps=steps + 1,
            per_device_train_batch_size=images,
            timesteps_per_group=batch.timesteps.shape[1],
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_GRAD_NORM,
            save_strategy="no",
            use_cpu=True,
        )
        GroupPreferenceTrainer(policy, args, groups, callbacks=[clock]).train()
    return clock.times()


def main() -> None:
    step, *sizes = sys.argv[1:6]
    images, group, times, steps = map(int, sizes)
    imported_mb = peak_mib()
    policy = load_policy(Path(sys.argv[6]) if len(sys.argv) > 6 else None)
    seconds, cpu_seconds = zip(
        *measure(step, policy, draw_batch(policy, images, group, times), steps), strict=True
    )
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mib() - imported_mb}))


if __name__ == "__main__":
    main()
