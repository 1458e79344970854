"""Evaluates a policy and its detector on a prepared real data set (hmr/datasets).

| the set has                 | measure                                                                            |
|-----------------------------|------------------------------------------------------------------------------------|
| joints in space             | MPJPE and PA-MPJPE by the protocol of the set (`annotated_errors`)                 |
| SMPL parameters             | PVE, with the body model of their gender                                           |
| COCO's keypoints            | PCK of detector and hypotheses (`keypoint_accuracy`)                               |

The detector and the policy get the sample alone: the image, the annotated box and an estimated camera. A person whose
record has nothing to compare with is left out and counted, with the reason, as are records that cannot be used.
Reductions over M hypotheses are those of `eval/benchmark/protocol.py`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.progress import Stage
from common.reading.validate import FlawedRecord
from common.storage.files import PathLike
from eval.benchmark.annotated.annotated_errors import (
    EvaluationBodies,
    Truth3D,
    annotated_errors_mm,
    protocol_of,
    truth_3d,
)
from eval.benchmark.annotated.annotated_report import AnnotatedReport
from eval.benchmark.annotated.keypoint_accuracy import PersonKeypoints, keypoints_of, pck_of
from eval.benchmark.protocol import noise_generator, require_finite
from hmr.body.surface_points import BodyPoints
from hmr.datasets.annotated_set import read_annotations
from hmr.datasets.annotation import Annotation, Dropped, Keypoints, annotated_or_dropped
from hmr.datasets.flaws import Flaws, ignored_keypoints, usable
from hmr.datasets.joints import COCO17
from hmr.datasets.protocols import JointProtocol
from hmr.detection.protocol import detect_all
from hmr.metrics.errors import average_pose
from hmr.synthetic.store import read_samples
from hmr.types import BodyParams, Detection, Detector, Hypotheses, Sample, Scorer

__all__ = ["DetectionPolicy", "evaluate_annotated"]


@runtime_checkable
class DetectionPolicy(Protocol):
    """A policy of detections, such as `hmr.policy.policy.DiffusionPolicy`. Hypotheses are on the CPU."""

    def encode(self, samples: Sequence[Sample], detections: Sequence[Detection]) -> Any: ...

    def sample(self, features: Any, num_samples: int, generator: torch.Generator) -> list[Hypotheses]: ...


def evaluate_annotated(
    policy: DetectionPolicy,
    detector: Detector,
    folder: PathLike,
    bodies: EvaluationBodies,
    *,
    num_samples: int,
    seed: int,
    stage: Stage,
    limit: int | None = None,
    scorer: Scorer | None = None,
    minima: Sequence[int] = (),
) -> AnnotatedReport:
    """Evaluate on a set that `meshcritic data prepare` wrote; `scorer` is the critic whose choice is measured.

    minima: further numbers of hypotheses over which the minimum is reported, besides `num_samples`.

    Raises ValueError if the protocol needs a regressor or bodies that `bodies` lacks, if no person has anything to
    compare with, and for a policy that returns NaN.
    """
    folder = Path(folder)
    annotations, samples = read_annotations(folder), list(itertools.islice(read_samples(folder), limit))
    protocol = protocol_of(folder, annotations.values())
    measure = _Measure(policy, detector, bodies, protocol, scorer, num_samples, seed, minima)
    tick = stage("people evaluated", len(samples))
    measured: list[_Measured] = []
    flaws = Flaws()
    for done, sample in enumerate(samples, start=1):
        truth = annotated_or_dropped(_truth, sample, annotations, protocol, bodies, flaws)
        if isinstance(truth, Dropped):
            flaws.drop(truth)
        else:
            measured.append(measure(sample, truth))
        tick(done)
    if not measured:
        reasons = "".join(f"; {line}" for line in flaws.lines())
        raise ValueError(f"no person in {folder} has {_compared(protocol)}{reasons}")
    return _report(measured, protocol, len(samples), flaws)


@dataclass(frozen=True)
class _Truth:
    """What a record has to compare with; at least one of joints, a fitted body and keypoints."""

    image: str
    person: str
    in_space: Truth3D
    keypoints: Keypoints | None
    side_px: float


@dataclass(frozen=True)
class _Measured:
    """Errors of one person by metric and reduction, keypoints in the image, and scores if there is a critic."""

    truth: _Truth
    errors_mm: Mapping[str, Mapping[str, float]]
    keypoints: PersonKeypoints | None
    scores: tuple[float | None, ...] | None

    def row(self) -> dict[str, Any]:
        row = {
            "image": self.truth.image,
            "person": self.truth.person,
            "errors_mm": self.errors_mm or None,
            "keypoints_px": self.keypoints and self.keypoints.distances_px(),
            "box_side_px": self.truth.side_px,
        }
        return row if self.scores is None else {**row, "scores": self.scores}


class _Measure:
    """Detects, samples and scores one person after the other."""

    def __init__(
        self,
        policy: DetectionPolicy,
        detector: Detector,
        bodies: EvaluationBodies,
        protocol: JointProtocol | None,
        scorer: Scorer | None,
        num_samples: int,
        seed: int,
        minima: Sequence[int],
    ) -> None:
        self.policy, self.detector, self.bodies, self.protocol = policy, detector, bodies, protocol
        self.scorer, self.num_samples, self.seed, self.minima = scorer, num_samples, seed, minima
        self.points = BodyPoints().fit_to(bodies.body)

    def __call__(self, sample: Sample, truth: _Truth) -> _Measured:
        (detection,) = detect_all(self.detector, [sample])
        features = self.policy.encode([sample], [detection])
        generator = noise_generator(self.seed, sample)
        (group,) = self.policy.sample(features, self.num_samples, generator)
        require_finite(group.params, sample)
        scores = None if self.scorer is None else tuple(self.scorer.score(sample, group))
        with_average = BodyParams.cat([group.params, BodyParams.stack([average_pose(group.params)])])
        errors = annotated_errors_mm(
            with_average, truth.in_space, self.protocol, self.bodies, scores or (), self.minima
        )
        keypoints = None
        if (true := truth.keypoints) is not None:
            bodies_px = self._project(with_average, sample)
            known = true.confidence > 0
            keypoints = keypoints_of(
                true.positions_px, known, truth.side_px, detection, bodies_px, scores or ()
            )
        return _Measured(truth, errors, keypoints, scores)

    @torch.no_grad()
    def _project(self, params: BodyParams, sample: Sample) -> Float[Tensor, "bodies 41 2"]:
        return sample.camera.project(self.points.in_camera(params))


def _truth(
    sample: Sample,
    annotations: Mapping[str, Annotation],
    protocol: JointProtocol | None,
    bodies: EvaluationBodies,
    flaws: Flaws,
) -> _Truth:
    """Raises FlawedRecord if the record cannot be used (sets of earlier versions have such records)."""
    if sample.id not in annotations:
        raise FlawedRecord(f"sample {sample.id} has no annotation", "no annotation of the sample")
    annotation = usable(annotations[sample.id], (sample.camera.width, sample.camera.height))
    flaws.ignored_keypoints += ignored_keypoints(annotations[sample.id].keypoints, annotation.keypoints)
    in_space, keypoints = truth_3d(annotation, protocol, bodies), _labelled_keypoints(annotation)
    if in_space.joints_m is None and in_space.fitted is None and keypoints is None:
        because = f"; PVE {in_space.without_pve}" if in_space.without_pve else ""
        raise FlawedRecord(
            f"{annotation.name} has nothing to compare with", f"without {_compared(protocol)}{because}"
        )
    return _Truth(annotation.image, annotation.person, in_space, keypoints, annotation.box.side)


def _compared(protocol: JointProtocol | None) -> str:
    joints = "" if protocol is None else f"all joints of {protocol.name} or "
    return f"{joints}COCO keypoints or a body for PVE"


def _labelled_keypoints(annotation: Annotation) -> Keypoints | None:
    """The record's COCO keypoints if any is labelled, else None."""
    for keypoints in annotation.keypoints:
        if keypoints.convention == COCO17 and keypoints.confidence.any():
            return keypoints
    return None


def _report(
    measured: Sequence[_Measured], protocol: JointProtocol | None, people: int, flaws: Flaws
) -> AnnotatedReport:
    errors = [person.errors_mm for person in measured]
    in_space, with_vertices = (
        sum(metric in person for person in errors) for metric in ("mpjpe_mm", "pve_mm")
    )
    in_image = [person.keypoints for person in measured if person.keypoints is not None]
    scores = [person.scores for person in measured if person.scores is not None]
    reasons = (person.truth.in_space.without_pve for person in measured)
    return AnnotatedReport(
        protocol=protocol.name if protocol and in_space else None,
        errors_mm=_mean(errors),
        pck=pck_of(in_image),
        people=people,
        people_in_space=in_space,
        people_with_vertices=with_vertices,
        people_in_image=len(in_image),
        people_scored=sum(any(score is not None for score in group) for group in scores) if scores else None,
        without_pve=dict(Counter(reason for reason in reasons if reason)),
        flaws=flaws,
        per_person=tuple(person.row() for person in measured),
    )


def _mean(people: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """By metric and reduction, over the people who have it."""
    values: dict[str, dict[str, list[float]]] = {}
    for errors in people:
        for metric, reductions in errors.items():
            for name, value in reductions.items():
                values.setdefault(metric, {}).setdefault(name, []).append(value)
    return {
        metric: {name: float(np.mean(each)) for name, each in reductions.items()}
        for metric, reductions in values.items()
    }
