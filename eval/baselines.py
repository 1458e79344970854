"""A policy beside what it must beat: the mean pose and a regression head on the same encoder.

Both baselines answer once, so their M hypotheses are one body repeated: every reduction of theirs is the same number,
and a minimum over M is no advantage to them. Read `averaged` and `hyp0` against them for a fair match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.demo import Stage
from eval.protocol import Report, evaluate_policy
from hmr.body import load_body
from hmr.data.recipe import LAB, WILD
from hmr.data.store import make_scenes, read_labelled, set_digest
from hmr.policy import DiffusionPolicy, Features
from hmr.types import Hypotheses, Sample

__all__ = ["SPLITS", "Comparison", "MeanPose", "RegressionHead", "evaluate_with_baselines"]

SPLITS = {
    "wild-test": (WILD, 21),
    "lab-test": (LAB, 22),
}  # recipe and seed; no other part of the project draws these


class RegressionHead:
    """The policy's own regression head, trained in the same run on the same features."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy

    def encode(self, samples: Sequence[Sample]) -> Features:
        return self.policy.encode(samples)

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return [_repeated(group, num_samples) for group in self.policy.regress(features)]


class MeanPose(RegressionHead):
    """The mean of the training targets, placed in the crop: what one would say without looking."""

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        x0 = torch.zeros(len(features), 1, len(self.policy.mean))
        params = self.policy.from_x0(x0, features)
        cameras = [group.camera for group in self.policy.regress(features)]
        return [
            _repeated(Hypotheses(params[index], camera), num_samples) for index, camera in enumerate(cameras)
        ]


def _repeated(group: Hypotheses, count: int) -> Hypotheses:
    return Hypotheses(group.params[torch.zeros(count, dtype=torch.long)], group.camera)


@dataclass(frozen=True)
class Comparison:
    reports: dict[str, Report]  # "policy", "regression head", "mean pose"
    benchmark: str
    base_policy: str

    def to_json(self) -> dict[str, Any]:
        """The policy's R at the top, the baselines' beside it."""
        summaries = {name.replace(" ", "_"): report.summary() for name, report in self.reports.items()}
        return {
            **summaries.pop("policy"),
            "baselines": summaries,
            "benchmark": self.benchmark,
            "base_policy": self.base_policy,
        }


def evaluate_with_baselines(
    policy: DiffusionPolicy,
    split: str,
    images: int,
    samples: int,
    seed: int,
    out: Path,
    stage: Stage,
    motion: Path | None = None,
    workers: int = 1,
) -> Comparison:
    """Draw the split's scenes (once) and evaluate all three. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; there are {', '.join(SPLITS)}")
    if motion is not None and not motion.exists():
        raise FileNotFoundError(f"{motion}: there is no such folder of AMASS npz files")
    recipe, scene_seed = SPLITS[split]
    folder = out / f"{split}-{images}{'-' + motion.name if motion else ''}"
    tick = stage(f"drawing {images} scenes", images)
    make_scenes(folder, recipe, scene_seed, images, motion, workers, tick)
    labelled, body = read_labelled(folder), load_body()
    reports = {}
    rivals = {"policy": policy, "regression head": RegressionHead(policy), "mean pose": MeanPose(policy)}
    for name, rival in rivals.items():
        ticks = stage(f"evaluating the {name}", images)
        reports[name] = evaluate_policy(
            rival,
            body,
            labelled,
            num_samples=samples if name == "policy" else 20,
            group_size=20 if samples >= 20 else samples,
            seed=seed,
            progress=lambda done, total, ticks=ticks: ticks(done),
        )
    return Comparison(reports, set_digest(folder), policy.digest())
