"""The images of a study of alignment: what policies are aligned on, what critics learn from, and what is reported.

`SceneImages` has the scenes of the open benchmark, `eval.study.prepared.PreparedImages` real data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from common.progress import Stage
from eval.benchmark.matched_spread import NoiseScaledPolicy
from eval.benchmark.measures.body_measures import BODY_MEASURES, FIRST, BodyMeasures
from eval.benchmark.protocol import Report, evaluate_policy
from eval.critics.exploration import load_other_detector
from eval.critics.groups import LabelledSet, labelled_scenes
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.synthetic.splits import Gap, draw_split
from hmr.synthetic.store import read_labelled, read_samples, set_digest
from hmr.types import BodyParams, Detector, Labelled, Posed, Sample, Scorer

__all__ = ["Evaluation", "SceneImages", "StudyImages", "StudyPolicy"]

StudyPolicy = DiffusionPolicy | NoiseScaledPolicy


@dataclass(frozen=True)
class Evaluation:
    """samples: M. minima: further numbers of hypotheses over which the minimum is reported. scorer: picks among the
    first `group_size`."""

    samples: int
    group_size: int
    seed: int
    minima: Sequence[int]
    scorer: Scorer | None


@runtime_checkable
class StudyImages(Protocol):
    """A smaller `count` is a prefix of a larger one."""

    @property
    def body(self) -> Body:
        """Of the hypotheses, and of the parameters of labels."""
        ...

    @property
    def detector(self) -> Detector | None:
        """The detector of critics; None: the embedded one of the policy."""
        ...

    @property
    def tests(self) -> str:
        """Name of the images that results are of."""
        ...

    def protocol(self) -> str:
        """Of the results: images, joints, root, unit, and what is aligned on."""
        ...

    def digest(self) -> str:
        """Content hash of the images that results are of."""
        ...

    def to_align(self, count: int, uses_truth: bool = False) -> Sequence[Sample]:
        """Images without labels; uses_truth: those whose labels are used as well."""
        ...

    def scenes(self, count: int, uses_truth: bool) -> Path | None:
        """The folder of the same images if they are scenes, from which a noisy truth reads the truth."""
        ...

    def labels(self, count: int) -> Sequence[Labelled]:
        """The images to align on with their truth."""
        ...

    def home_labels(self, count: int) -> Sequence[Labelled]:
        """Labelled images of the base policy's own domain."""
        ...

    def calibration(self, count: int) -> LabelledSet:
        """Labelled images on which critics learn."""
        ...

    def evaluate(self, policy: StudyPolicy, evaluation: Evaluation, stage: Stage) -> Report: ...

    def true_bodies(self, stage: Stage) -> Report | None:
        """Plausibility and agreement with the image of the true bodies; None where they are not measured."""
        ...


@dataclass(frozen=True)
class SceneImages:
    """The splits of a base policy, drawn under `root`. test: number of images that results are of.

    Of the hypotheses only joints are posed, and the first ten of each image as meshes, for their plausibility and
    agreement with the image; `meshcritic evaluate` has all metrics of errors.
    """

    gap: Gap
    test: int
    measures: BodyMeasures
    detector: Detector | None
    root: Path
    stage: Stage
    drawn: dict[tuple[str, int, bool], Path] = field(default_factory=dict)

    @staticmethod
    def of(policy: DiffusionPolicy, gap: Gap, test: int, root: Path, stage: Stage) -> SceneImages:
        """The critic's detector is the embedded one."""
        detector = load_other_detector(EmbeddedDetector.name, policy)
        measures = BodyMeasures(load_body(), load_renderer(), detector or policy.detector)
        return SceneImages(gap, test, measures, detector, root, stage)

    @property
    def body(self) -> Body:
        return self.measures.body

    @property
    def tests(self) -> str:
        return self.gap.test

    def protocol(self) -> str:
        return (
            f"{self.gap.test}, {self.test} images; 24 joints, pelvis-aligned, mm; aligned on {self.gap.align}"
        )

    def digest(self) -> str:
        return set_digest(self._draw(self.gap.test, self.test))

    def to_align(self, count: int, uses_truth: bool = False) -> Sequence[Sample]:
        return read_samples(self.scenes(count, uses_truth))

    def scenes(self, count: int, uses_truth: bool) -> Path:
        return self._draw(self.gap.align, count, uses_truth)

    def labels(self, count: int) -> Sequence[Labelled]:
        return read_labelled(self.scenes(count, uses_truth=True))

    def home_labels(self, count: int) -> Sequence[Labelled]:
        return read_labelled(self._draw(self.gap.train, count))

    def calibration(self, count: int) -> LabelledSet:
        return labelled_scenes(self._draw(self.gap.calibration, count))

    def evaluate(self, policy: StudyPolicy, evaluation: Evaluation, stage: Stage) -> Report:
        labelled = read_labelled(self._draw(self.gap.test, self.test))
        tick = stage("evaluating", len(labelled))
        report = evaluate_policy(
            policy,
            self._skeleton,
            labelled,
            num_samples=evaluation.samples,
            group_size=evaluation.group_size,
            seed=evaluation.seed,
            minima=evaluation.minima,
            scorer=evaluation.scorer,
            measures=self.measures,
            progress=lambda done, total: tick(done),
        )
        values = {
            metric: values for metric, values in report.values.items() if metric != "pve_mm"
        }  # no meshes
        return replace(report, values=values)

    def true_bodies(self, stage: Stage) -> Report:
        labelled = read_labelled(self._draw(self.gap.test, self.test))
        tick = stage("measuring the true bodies", len(labelled))
        rows = []
        for done, item in enumerate(labelled, start=1):
            rows.append(self.measures.of_truth(item))
            tick(done)
        name = f"first{FIRST}"
        values = {metric: {name: np.array([row[metric][name] for row in rows])} for metric in BODY_MEASURES}
        return Report(tuple(item.sample.id for item in labelled), values, ())

    def _skeleton(self, params: BodyParams) -> Posed:
        joints_cam_m = self.body.joints(params)
        return Posed(joints_cam_m, joints_cam_m)

    def _draw(self, split: str, count: int, truth: bool = False) -> Path:
        if (split, count, truth) not in self.drawn:
            tick = self.stage(f"drawing {count} scenes of {split}", count)
            folder = draw_split(split, self.root, count, uses_truth=truth, progress=tick)
            self.drawn[split, count, truth] = folder
        return self.drawn[split, count, truth]
