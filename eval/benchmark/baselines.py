"""A policy beside what it must beat, the mean pose and a regression head on the same encoder, and itself with guidance.

Both baselines answer once, so their M hypotheses are one body repeated: every reduction of theirs is the same number,
and a minimum over M is no advantage to them. Read `averaged` and `hyp0` against them for a fair match. What they lack
is doubt: calibration is asked of the sets of hypotheses alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.progress import Stage
from eval.benchmark.intervals import bootstrap_mean
from eval.benchmark.protocol import ERROR_METRICS, Policy, Report, evaluate_policy
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Hypotheses, Sample

__all__ = [
    "ANSWER_ONCE",
    "SPLITS",
    "Comparison",
    "Guided",
    "MeanPose",
    "RegressionHead",
    "evaluate_with_baselines",
]

SPLITS = ("wild-test", "lab-test")  # of hmr.synthetic.splits: nothing is fitted on these
ANSWER_ONCE = ("mean pose", "regression head")
GROUP_SIZE = 20


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
        x0 = torch.zeros(len(features), 1, len(self.policy.mean), device=self.policy.device)
        return [_repeated(group, num_samples) for group in self.policy.hypotheses(x0, features)]


class Guided:
    """The policy with its sampler pulled towards what else is known of an image; the same starting noise."""

    def __init__(
        self, policy: DiffusionPolicy, guidance_of: Callable[[Sequence[Sample], Features], Guidance]
    ) -> None:
        self.policy, self.guidance_of = policy, guidance_of

    def encode(self, samples: Sequence[Sample]) -> tuple[Features, Guidance]:
        features = self.policy.encode(samples)
        return features, self.guidance_of(samples, features)

    def sample(
        self, features: tuple[Features, Guidance], num_samples: int, generator: torch.Generator
    ) -> list[Hypotheses]:
        seen, guidance = features
        return self.policy.sample(seen, num_samples, generator, guidance=guidance)


def _repeated(group: Hypotheses, count: int) -> Hypotheses:
    return Hypotheses(group.params[torch.zeros(count, dtype=torch.long)], group.camera)


@dataclass(frozen=True)
class Comparison:
    reports: dict[str, Report]  # by rival, from what is easiest to beat
    benchmark: str  # content hash of the scenes
    base_policy: str  # content hash of its weights

    def to_json(self) -> dict[str, Any]:
        """The diffusion's R and what its spread is worth at the top; the others beside it."""
        figures = {
            name.replace(" ", "_"): report.summary() | ({} if name in ANSWER_ONCE else report.uncertainty())
            for name, report in self.reports.items()
        }
        return {
            **figures.pop("diffusion"),
            "beside": figures,
            "less_the_head": self.less_the_head(),
            "benchmark": self.benchmark,
            "base_policy": self.base_policy,
        }

    def less_the_head(self) -> dict[str, dict[str, list[float]]]:
        """The diffusion's two single answers less the regression head's on the same image: mean and 95 % interval over
        images, by error and answer; below zero the diffusion is ahead."""
        ours, head = (self.reports[name].values for name in ("diffusion", "regression head"))
        found: dict[str, dict[str, list[float]]] = {}
        for metric in ERROR_METRICS:
            for answer in ("hyp0", "averaged"):
                interval = bootstrap_mean((ours[metric][answer] - head[metric][answer])[None])
                assert interval is not None, "every image has both answers"
                found.setdefault(metric, {})[answer] = list(dataclasses.astuple(interval))
        return found


def evaluate_with_baselines(
    policy: DiffusionPolicy,
    split: str,
    images: int,
    samples: int,
    seed: int,
    out: Path,
    stage: Stage,
    motion: Path | None = None,
    backdrops: Path | None = None,
    workers: int = 1,
) -> Comparison:
    """Draw the split's scenes (once) and evaluate all rivals on the same starting noise.

    Raises ValueError for an unknown split and a folder without photographs, FileNotFoundError for a folder of motion or
    backdrops that is not there.
    """
    if split not in SPLITS:
        raise ValueError(f"no split to evaluate on is called {split!r}; there are {', '.join(SPLITS)}")
    if motion is not None and not motion.exists():
        raise FileNotFoundError(f"{motion}: there is no such folder of AMASS npz files")
    if backdrops is not None and not backdrops.is_dir():
        raise FileNotFoundError(f"{backdrops}: there is no such folder of photographs")
    tick = stage(f"drawing {images} scenes", images)
    folder = draw_split(
        split, out, images, motion=motion, backdrops=backdrops, workers=workers, progress=tick
    )
    labelled, body = read_labelled(folder), load_body()
    reports = {}
    for name, rival in _rivals(policy, body).items():
        ticks = stage(f"evaluating the {name}", images)
        reports[name] = evaluate_policy(
            rival,
            body,
            labelled,
            num_samples=samples,
            group_size=min(GROUP_SIZE, samples),
            seed=seed,
            progress=lambda done, total, ticks=ticks: ticks(done),
        )
    return Comparison(reports, set_digest(folder), policy.digest())


def _rivals(policy: DiffusionPolicy, body: Body) -> dict[str, Policy]:
    detector = EmbeddedDetector(policy)

    def detected(samples: Sequence[Sample], features: Features) -> Guidance:
        return DetectionGuidance(policy, body, features, [detector.detect(sample) for sample in samples])

    return {
        "mean pose": MeanPose(policy),
        "regression head": RegressionHead(policy),
        "diffusion": policy,
        "diffusion with guidance": Guided(policy, detected),
    }
