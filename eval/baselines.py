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
from hmr.data.benchmark import draw_split
from hmr.data.store import read_labelled, set_digest
from hmr.policy import DiffusionPolicy, Features
from hmr.types import Hypotheses, Sample

__all__ = ["Comparison", "MeanPose", "RegressionHead", "evaluate_with_baselines"]

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
    if motion is not None and not motion.exists():
        raise FileNotFoundError(f"{motion}: there is no such folder of AMASS npz files")
    tick = stage(f"drawing {images} scenes", images)
    folder = draw_split(split, out, images, motion=motion, workers=workers, progress=tick)
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
