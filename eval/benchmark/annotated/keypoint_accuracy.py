"""PCK of a detector and of a policy's hypotheses on COCO's 17 keypoints (hmr/metrics/pck.py).

| estimate     | what is compared with the annotated keypoints                                                   |
|--------------|-------------------------------------------------------------------------------------------------|
| `detector`   | the points that the detector reports for the annotated box                                      |
| `hyp0`       | hypothesis 0, projected by the estimated camera                                                 |
| `mean`       | a hypothesis chosen at random: the mean over all M                                              |
| `averaged`   | the averaged body of the M                                                                      |
| `best{M}`    | for each person the hypothesis with the smallest mean distance, the choice of an oracle         |
| `pick{M}`    | the hypothesis with the critic's best score; the mean over those that share it                  |

Shoulders to ankles are the body's joints; nose, eyes and ears are points of its surface (hmr/body/surface_points.py).
SMPL's hips lie deeper in the body than those that COCO's annotators mark, so a body that fits the person exactly misses
them by some centimetres: compare the values of the hips with each other only. A point that the detector has not
reported for a person is not correct; one that it has reported for nobody has no value and is left out of its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.datasets.joints import COCO17
from hmr.metrics.pck import PCK_THRESHOLDS, correct_share, is_correct
from hmr.types import POINT_NAMES, Detection

__all__ = ["PersonKeypoints", "keypoints_of", "pck_of"]

COCO_POINTS = [POINT_NAMES.index(name) for name in COCO17.joints]
DETECTOR = "detector"


@dataclass(frozen=True)
class PersonKeypoints:
    """The annotated keypoints of one person, and each estimate of them."""

    true_px: Float[Tensor, "17 2"]
    known: Bool[Tensor, "17"]
    side_px: float  # the longer side of the annotated box
    # One or several bodies by estimate; a share is their mean. Points that are not reported are at infinity.
    pred_px: Mapping[str, Float[Tensor, "bodies 17 2"]]

    def correct(self, estimate: str, threshold: float) -> Float[Tensor, "17"]:
        """The share of the estimate's bodies in which each keypoint is correct."""
        side_px = torch.tensor([self.side_px])
        return is_correct(self.pred_px[estimate], self.true_px, side_px, threshold).float().mean(dim=0)

    def distances_px(self) -> dict[str, list[float | None]]:
        """By estimate, for each keypoint; None without an annotation or a point. The mean over the bodies."""
        return {name: self._distances(bodies_px) for name, bodies_px in self.pred_px.items()}

    def _distances(self, bodies_px: Float[Tensor, "bodies 17 2"]) -> list[float | None]:
        distances = (bodies_px - self.true_px).norm(dim=-1).mean(dim=0)
        valid = (self.known & distances.isfinite()).tolist()
        return [one if ok else None for one, ok in zip(distances.tolist(), valid, strict=True)]


def keypoints_of(
    true_px: Float[Tensor, "17 2"],
    known: Bool[Tensor, "17"],
    side_px: float,
    detection: Detection,
    bodies_px: Float[Tensor, "bodies 41 2"],
    scores: Sequence[float | None] = (),
) -> PersonKeypoints:
    """bodies_px: the projected points of the M hypotheses, then of their average. scores: of the hypotheses."""
    bodies_px = bodies_px[:, COCO_POINTS]
    hypotheses_px, count = bodies_px[:-1], len(bodies_px) - 1
    distances = (hypotheses_px - true_px).norm(dim=-1)[:, known].mean(dim=-1)
    best = int(distances.argmin())
    detected_px = torch.where(detection.observed[:, None], detection.points_px, torch.inf)[COCO_POINTS]
    estimates = {
        DETECTOR: detected_px[None],
        "hyp0": hypotheses_px[:1],
        "mean": hypotheses_px,
        "averaged": bodies_px[-1:],
        f"best{count}": hypotheses_px[best : best + 1],
    }
    if picked := _best_scored(scores):
        estimates[f"pick{count}"] = hypotheses_px[picked]
    return PersonKeypoints(true_px, known, side_px, estimates)


def _best_scored(scores: Sequence[float | None]) -> list[int]:
    top = max((score for score in scores if score is not None), default=None)
    return [index for index, score in enumerate(scores) if score is not None and score == top]


def pck_of(people: Sequence[PersonKeypoints]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Estimate, then `pck_0.05` and so on, then `all` (the mean over the joints) or the joint; None without a value."""
    estimates = {name: None for person in people for name in person.pred_px}
    return {name: _pck_of(people, name) for name in estimates}


def _pck_of(people: Sequence[PersonKeypoints], estimate: str) -> dict[str, dict[str, float | None]]:
    having = [person for person in people if estimate in person.pred_px]
    known = torch.stack([person.known for person in having])
    reported = torch.stack([person.pred_px[estimate].isfinite().all(dim=-1).any(dim=0) for person in having])
    known = known & reported.any(dim=0)
    shares = {}
    for threshold in PCK_THRESHOLDS:
        correct = torch.stack([person.correct(estimate, threshold) for person in having])
        by_joint = correct_share(correct, known)
        values = [by_joint.nanmean().item(), *by_joint.tolist()]
        shares[f"pck_{threshold:g}"] = {
            name: None if value != value else value  # NaN
            for name, value in zip(("all", *COCO17.joints), values, strict=True)
        }
    return shares
