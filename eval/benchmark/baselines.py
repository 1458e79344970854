"""Evaluates a policy beside the mean pose, its regression head, itself with guidance, and another policy.

Both baselines are deterministic, so their M hypotheses are one body repeated and all their reductions are the same
number. A minimum over M favours the policy; compare them with its `averaged` and `hyp0`. Calibration is not measured
for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.progress import Stage
from common.storage.files import PathLike
from eval.benchmark.intervals import difference_interval
from eval.benchmark.protocol import ERROR_METRICS, Policy, Report, evaluate_policy
from eval.benchmark.tables import Row, compare
from hmr.body.model import Body, load_body
from hmr.detection.protocol import detect_all
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Hypotheses, Sample

__all__ = [
    "DETERMINISTIC",
    "OTHER",
    "SPLITS",
    "BaselineComparison",
    "GuidedPolicy",
    "MeanPose",
    "RegressionHead",
    "evaluate_with_baselines",
    "policies_to_compare",
]

SPLITS = (
    "wild-test",
    "lab-test",
    "street-test",
    "studio-test",
)  # of hmr.synthetic.splits; nothing is fitted on these
DETERMINISTIC = ("mean pose", "regression head")
DIFFUSION, OTHER = "diffusion", "other policy"
GROUP_SIZE = 20


class RegressionHead:
    """The policy's regression head, trained in the same run on the same detections."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy

    def encode(self, samples: Sequence[Sample]) -> Features:
        return self.policy.encode(samples)

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return [_repeated(group, num_samples) for group in self.policy.regress(features)]


class MeanPose(RegressionHead):
    """The mean of the training targets, placed in the crop: an estimate that does not use the image."""

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        x0 = torch.zeros(len(features), 1, len(self.policy.mean), device=self.policy.device)
        return [_repeated(group, num_samples) for group in self.policy.hypotheses(x0, features)]


class GuidedPolicy:
    """The policy with guidance of its sampler, from the same starting noise."""

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
        encoded, guidance = features
        return self.policy.sample(encoded, num_samples, generator, guidance=guidance)


def _repeated(group: Hypotheses, count: int) -> Hypotheses:
    return Hypotheses(group.params[torch.zeros(count, dtype=torch.long)], group.camera)


@dataclass(frozen=True)
class BaselineComparison:
    reports: dict[
        str, Report
    ]  # by policy: the baselines, the diffusion policy, the guided one, another policy
    benchmark: str  # content hash of the scenes
    base_policy: str  # content hash of its weights
    other_policy: str | None = None  # the same of the other policy; None without one

    def to_json(self) -> dict[str, Any]:
        """R and calibration of the diffusion policy at the top level; those of the others under `beside`."""
        figures = {
            name.replace(" ", "_"): report.summary() | ({} if name in DETERMINISTIC else report.uncertainty())
            for name, report in self.reports.items()
        }
        return {
            **figures.pop(DIFFUSION),
            "beside": figures,
            "less_the_head": self.difference_to_head(),
            "less_the_other": self.difference_to_other(),
            "benchmark": self.benchmark,
            "base_policy": self.base_policy,
            "other_policy": self.other_policy,
        }

    def rows_against_other(self, name: str = OTHER) -> list[Row]:
        """Both policies with their paired differences; empty without another policy, which the rows call `name`."""
        if OTHER not in self.reports:
            return []
        both = {name: [self.reports[OTHER]], DIFFUSION: [self.reports[DIFFUSION]]}
        rows = compare(both, reference=name)
        return [row for row in rows if row.values[DIFFUSION] is not None]

    def difference_to_other(self) -> dict[str, dict[str, list[float]]]:
        """Diffusion policy minus the other policy, as `difference_to_head`, for errors and spreads."""
        differences: dict[str, dict[str, list[float]]] = {}
        for row in self.rows_against_other():
            interval = row.differences[DIFFUSION]
            if interval is not None:
                differences.setdefault(row.metric, {})[row.reduction] = list(dataclasses.astuple(interval))
        return differences

    def difference_to_head(self) -> dict[str, dict[str, list[float]]]:
        """Error of the diffusion policy's `hyp0` and `averaged` minus the regression head's on the same image: mean and
        95 % interval over images, by error and reduction; below zero the diffusion policy is better. Empty for fewer
        images than an interval needs."""
        diffusion, head = (self.reports[name].values for name in (DIFFUSION, "regression head"))
        differences: dict[str, dict[str, list[float]]] = {}
        for metric in ERROR_METRICS:
            for reduction in ("hyp0", "averaged"):
                less = difference_interval((diffusion[metric][reduction] - head[metric][reduction])[None])
                if less is not None:
                    differences.setdefault(metric, {})[reduction] = list(dataclasses.astuple(less))
        return differences


def evaluate_with_baselines(
    policy: DiffusionPolicy,
    split: str,
    *,
    images: int,
    samples: int,
    seed: int,
    out: PathLike,
    stage: Stage,
    motion: Path | None = None,
    backdrops: Path | None = None,
    body: Path | None = None,
    workers: int = 1,
    against: DiffusionPolicy | None = None,
) -> BaselineComparison:
    """Draw the split's scenes (once) and evaluate all policies with the same starting noise. against: another policy.

    body: file of the body model of scenes and hypotheses; None: the embedded one.

    Raises ValueError for an unknown split, a policy that was trained with another body and a folder without
    photographs, FileNotFoundError for a missing body model or folder of motion or backdrops.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if motion is not None and not motion.exists():
        raise FileNotFoundError(f"{motion}: there is no such folder of AMASS npz files")
    if backdrops is not None and not backdrops.is_dir():
        raise FileNotFoundError(f"{backdrops}: there is no such folder of photographs")
    model = load_body(body)
    others = {} if against is None else {OTHER: against}
    for each in (policy, *others.values()):
        each.require_body(model)
    tick = stage(f"drawing {images} scenes", images)
    folder = draw_split(
        split,
        Path(out),
        images,
        motion=motion,
        backdrops=backdrops,
        body=body,
        workers=workers,
        progress=tick,
    )
    labelled, reports = read_labelled(folder), {}
    for name, evaluated in {**policies_to_compare(policy, model), **others}.items():
        ticks = stage(f"evaluating the {name}", images)
        reports[name] = evaluate_policy(
            evaluated,
            model,
            labelled,
            num_samples=samples,
            group_size=min(GROUP_SIZE, samples),
            seed=seed,
            progress=lambda done, total, ticks=ticks: ticks(done),
        )
    other_digest = None if against is None else against.digest()
    return BaselineComparison(reports, set_digest(folder), policy.digest(), other_digest)


def policies_to_compare(policy: DiffusionPolicy, body: Body) -> dict[str, Policy]:
    """The policy, its baselines and its guided form, by the names of the report."""

    def detected(samples: Sequence[Sample], features: Features) -> Guidance:
        return DetectionGuidance(policy, body, features, detect_all(policy.detector, samples))

    return {
        "mean pose": MeanPose(policy),
        "regression head": RegressionHead(policy),
        DIFFUSION: policy,
        "diffusion with guidance": GuidedPolicy(policy, detected),
    }
