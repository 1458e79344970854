"""What the tests of the policy gradient share; run as a module, it is the process that the kill test ends.

`python -m tests.rl.policy_gradient.scenes OUT N` stops before the N-th change of a name on disk under OUT and waits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from hmr.body.model import load_body
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Hypotheses, Sample
from rl.policy_gradient.align import align_by_policy_gradient
from rl.policy_gradient.config import PolicyGradientConfig
from tests.hmr.policy.tiny_policy import make_tiny_policy

SETTINGS = PolicyGradientConfig(
    updates=3,
    images_per_update=2,
    group_size=3,
    steps=3,
    inner_epochs=2,
    minibatches=2,
    learning_rate=1e-3,
    train_estimate=True,
    ema_decay=0.5,
)
CHANGES = ("os.rename", "os.remove", "os.rmdir")


class Depth:
    """Scores by depth and records the samples; raises KeyboardInterrupt after `patience` of them."""

    name = "depth"

    def __init__(self, patience: int = 1000) -> None:
        self.asked: list[str] = []
        self.patience = patience

    def digest(self) -> str:
        return "depth"  # also for subclasses

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        if len(self.asked) == self.patience:
            raise KeyboardInterrupt
        self.asked.append(sample.id)
        return hypotheses.params.transl[:, 2].tolist()


def wild(count: int = 3) -> list[Sample]:
    rng, box = np.random.default_rng(0), Box(8.0, 8.0, 80.0, 88.0)
    images = rng.integers(0, 255, (count, 96, 96, 3), dtype=np.uint8)
    return [Sample(f"wild-{n}", image, box, Camera.estimate(96, 96)) for n, image in enumerate(images)]


def run(
    policy: DiffusionPolicy,
    scorer: Depth,
    out: Path,
    settings: PolicyGradientConfig = SETTINGS,
    seed: int = 5,
    **more,
) -> DiffusionPolicy:
    return align_by_policy_gradient(
        policy, scorer, wild(), out, settings,
        seed=seed, stage=lambda title, total: lambda done, note="": None, **more,
    )  # fmt: skip


def weights(policy: DiffusionPolicy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.parameters()])


def count_changes(out: Path, stop_at: int) -> list[str]:
    """From now on, the changes of names under `out` in the order they are made; stops before the one of that number."""
    changes: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event in CHANGES and str(out) in str(arguments[0]):
            changes.append(f"{event} {arguments[0]}")
            if len(changes) == stop_at:
                print("stopped", flush=True)
                sys.stdin.read()

    sys.addaudithook(watch)
    return changes


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    made = count_changes(folder, int(sys.argv[2]))
    run(make_tiny_policy(load_body()), Depth(), folder)
    print("changes", len(made), flush=True)
