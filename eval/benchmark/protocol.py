"""The benchmark protocol: computes the numbers of `metrics.json` from a policy and labelled images.

Each image gets M hypotheses (`num_samples`) from noise seeded by the run's seed and the image's id, so that compared
policies start from the same noise and their differences are paired. The first G of them (`group_size`) are the group
that a scorer gets. For e in {MPJPE, PA-MPJPE, PVE}, in millimetres:

| key in R    | value for one image     | meaning                                                               |
|-------------|-------------------------|-----------------------------------------------------------------------|
| `min20`     | min_{m<20} e(h_m)       | choice of an oracle; M is part of the name, as a larger M is lower    |
| `min100`    | min_{m<100} e(h_m)      | the number of the literature                                          |
| `mean`      | mean_m e(h_m)           | a hypothesis chosen at random                                         |
| `pick20`    | e(h_argmax_{m<20} s_m)  | choice of the scorer                                                  |
| `hyp0`      | e(h_0)                  | the zero-noise hypothesis, ScoreHypo's deterministic estimate         |
| `averaged`  | e(avg_m h_m)            | the averaged pose; *not* the mean of the errors                       |

R holds the mean of each over the images. The minimum is taken for each e independently, as in ScoreHypo and ADHMR, so
the `min` values of different e may belong to different hypotheses.

Left out: H36M's 14 joints and 3DPW's 17 (they need SMPL's regressors), and any correction of the rotation between the
estimated and the true camera: the error of a wild image's estimated camera is part of the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.metrics.calibration import MIN_IMAGES, coverage, hidden_by_occluder, hidden_over_visible
from hmr.metrics.errors import (
    MM_PER_M,
    about_pelvis,
    average_pose,
    joint_std_mm,
    mean_of_errors,
    min_of_errors,
    mpjpe_mm,
    pa_mpjpe_mm,
    pick_of_errors,
    pve_mm,
    spread_mm,
)
from hmr.types import JOINT_NAMES, BodyParams, Hypotheses, Labelled, Posed, Sample, Scorer, Truth
from rl.types import checked_scores

__all__ = [
    "BODIES_AT_ONCE",
    "ERROR_METRICS",
    "PROTOCOL",
    "SPREAD_METRICS",
    "Policy",
    "Report",
    "ScoredGroup",
    "evaluate_policy",
    "mean_or_none",
    "noise_generator",
    "require_finite",
]

ERROR_METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")
SPREAD_METRICS = ("spread_visible_mm", "spread_occluded_mm")
UNCERTAINTY_METRICS = ("calibration_80", "spread_occluded_over_visible", "error_occluded_over_visible")
PROTOCOL: dict[str, str] = {
    "unit": "millimetre",
    "joints": "24, in SMPL's order; the pelvis counts, as a zero of MPJPE",
    "vertices": "all vertices of the body in use",
    "alignment": "MPJPE and PVE: translation that puts each body's own pelvis joint (0) at the origin; "
    "PA-MPJPE: similarity Procrustes of each hypothesis, scale included, reflections excluded",
    "frames": "hypotheses in the estimated camera's frame, truth in the true one's, no rotation between them",
    "minimum": "over the first M hypotheses, for each metric independently; M is part of the name",
    "hypothesis 0": "from zero noise; counted in every minimum, mean and average",
    "mean": "mean_m e(h_m) over all M",
    "averaged": "e of the body whose rotations are chordal means over all M, betas arithmetic means",
    "pick": "the best-scored of the first G; equal best scores give their mean error; no score, no value",
    "spread": "mean_j sqrt(mean_m |p_mj - mean_m p_mj|^2) over all M, pelvis-aligned, pelvis left out; "
    "visible: joints inside the image that nothing but the body hides; occluded: the others",
    "calibration_80": "share of the 23 x 3 pelvis-aligned joint coordinates, camera axes, whose truth lies between the "
    "10th and the 90th percentile of the M samples; pelvis left out",
    "spread_occluded_over_visible": "mean_j of a joint's std (as in spread) averaged over the images where an occluder "
    f"hides it, over the same where it is visible; joints with at least {MIN_IMAGES} images of each",
    "error_occluded_over_visible": "the same ratio of how far the middle of the samples is off: where the spread means "
    "something the two agree",
    "images": "mean over images; one without a value (no occluded joint, no score) is left out of that mean",
    "noise": "seeded by the run's seed and the image's id: policies under comparison share it",
    "box": "the Sample's: detected or jittered, never the true one",
}
BODIES_AT_ONCE = 64  # 64 bodies of 12,000 vertices with their 4 x 4 transforms stay under 100 MB


@runtime_checkable
class Policy(Protocol):
    """Interface of an evaluated policy, such as `hmr.policy.policy.DiffusionPolicy`. Hypotheses are on the CPU."""

    def encode(self, samples: Sequence[Sample]) -> Any: ...

    def sample(self, features: Any, num_samples: int, generator: torch.Generator) -> list[Hypotheses]: ...


@dataclass(frozen=True)
class ScoredGroup:
    """The scores of one group, and the true errors of its hypotheses in the same order."""

    sample_id: str
    scores: tuple[float | None, ...]
    errors_mm: Mapping[str, Float[np.ndarray, " group"]]  # by ERROR_METRICS


@dataclass(frozen=True)
class Report:
    """The evaluation of one policy, with values by image for intervals and paired differences."""

    sample_ids: tuple[str, ...]
    # metric -> reduction or joint -> one value per image, NaN if it has none
    values: Mapping[str, Mapping[str, Float[np.ndarray, " images"]]]
    groups: tuple[ScoredGroup, ...]  # empty without a scorer

    def summary(self) -> dict[str, dict[str, float | None] | float | None]:
        """R of `metrics.json`: means over the images, None if no image has a value."""
        summary: dict[str, dict[str, float | None] | float | None] = {
            metric: {name: mean_or_none(by_image) for name, by_image in self.values[metric].items()}
            for metric in ERROR_METRICS
        }
        return summary | {metric: mean_or_none(self.values[metric]["all"]) for metric in SPREAD_METRICS}

    def uncertainty(self) -> dict[str, float | None]:
        """`UNCERTAINTY_METRICS` (hmr/metrics/calibration.py), None if a metric has too few images."""
        ratios = [
            hidden_over_visible(self._by_joint(f"{metric}_hidden_mm"), self._by_joint(f"{metric}_visible_mm"))
            for metric in ("std", "error")
        ]
        figures = [mean_or_none(self.values["calibration_80"]["all"]), *ratios]
        return dict(zip(UNCERTAINTY_METRICS, figures, strict=True))

    def _by_joint(self, metric: str) -> Float[np.ndarray, "images joints"]:
        return np.stack([self.values[metric][name] for name in JOINT_NAMES[1:]], axis=1)

    def spread_mm(self) -> float:
        """The spread over all joints, visible and occluded: mean over joints, then over images."""
        return float(self.values["spread_mm"]["all"].mean())


Measures = Callable[[Labelled, BodyParams], Mapping[str, Mapping[str, float]]]  # metric -> name -> value


def _no_measures(labelled: Labelled, params: BodyParams) -> Mapping[str, Mapping[str, float]]:
    return {}


def evaluate_policy(
    policy: Policy,
    body: Callable[[BodyParams], Posed],
    labelled: Sequence[Labelled],
    *,
    num_samples: int = 100,
    group_size: int = 20,
    seed: int,
    minima: Sequence[int] = (),
    scorer: Scorer | None = None,
    measures: Measures = _no_measures,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Evaluate `policy` on images with truth; the policy and the scorer get the `Sample` alone.

    minima: further numbers of hypotheses over which the minimum is reported, besides the group and all samples.
    measures: called with each image and its hypotheses; its metrics join those of the report
        (`eval.benchmark.measures.body_measures`).
    progress: called with (images done, number of images).

    Raises ValueError for an empty benchmark, a group larger than the number of samples, and a policy that returns NaN.
    """
    if not labelled:
        raise ValueError("an evaluation needs at least one labelled image")
    if not 2 <= group_size <= num_samples:
        raise ValueError(f"group_size must be from 2 to num_samples = {num_samples}, not {group_size}")
    if too_large := [count for count in minima if not 1 <= count <= num_samples]:
        raise ValueError(f"a minimum is over 1 to num_samples = {num_samples} hypotheses, not {too_large[0]}")
    counts = sorted({*minima, group_size, num_samples})
    rows, groups = [], []
    for done, item in enumerate(labelled, start=1):
        params = _sample_params(policy, item.sample, num_samples, seed)
        errors, uncertainty = _measure(body, params, item.truth)
        group = None
        if scorer is not None:
            group = _score(scorer, item.sample, params[:group_size], errors)
            groups.append(group)
        measured = measures(item, params)
        rows.append({**_reduce(errors, group, num_samples, group_size, counts), **uncertainty, **measured})
        if progress is not None:
            progress(done, len(labelled))
    values = {
        metric: {name: np.array([row[metric][name] for row in rows]) for name in rows[0][metric]}
        for metric in rows[0]
    }
    return Report(tuple(item.sample.id for item in labelled), values, tuple(groups))


def noise_generator(seed: int, sample: Sample) -> torch.Generator:
    """The generator of one image's starting noise; it depends only on the run's seed and the image's id."""
    digest = hashlib.sha256(f"{seed}/{sample.id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def _sample_params(policy: Policy, sample: Sample, num_samples: int, seed: int) -> BodyParams:
    params = policy.sample(policy.encode([sample]), num_samples, noise_generator(seed, sample))[0].params
    require_finite(params, sample)
    return params


def require_finite(params: BodyParams, sample: Sample) -> None:
    """Raises ValueError for bodies that are not finite."""
    if not params.is_finite:
        # The means leave out NaN and would be too low for a policy that diverged.
        raise ValueError(
            f"the policy returned NaN or infinite bodies for image {sample.id!r}: its training diverged"
        )


@torch.no_grad()
def _measure(
    body: Callable[[BodyParams], Posed], params: BodyParams, truth: Truth
) -> tuple[dict[str, Float[Tensor, " samples_and_average"]], dict[str, dict[str, float]]]:
    """Errors of the M hypotheses followed by that of their average, and spread and calibration of the M."""
    true = body(truth.params)
    true_joints = truth.joints_cam_m
    with_average = BodyParams.cat([params, BodyParams.stack([average_pose(params)])])
    joints, pve = [], []
    for start in range(0, with_average.batch_shape[0], BODIES_AT_ONCE):
        posed = body(with_average[start : start + BODIES_AT_ONCE])
        joints.append(posed.joints_cam_m)
        pve.append(pve_mm(posed.vertices_cam_m, posed.joints_cam_m, true.vertices_cam_m, true.joints_cam_m))
    all_joints = torch.cat(joints)
    errors = {
        "mpjpe_mm": mpjpe_mm(all_joints, true_joints),
        "pa_mpjpe_mm": pa_mpjpe_mm(all_joints, true_joints),
        "pve_mm": torch.cat(pve),
    }
    return errors, _uncertainty(all_joints[:-1], truth)


def _uncertainty(joints_cam_m: Float[Tensor, "samples 24 3"], truth: Truth) -> dict[str, dict[str, float]]:
    """Spreads over sets of joints, std and error of each joint where it is visible or hidden (else NaN), coverage."""
    masks = {
        "spread_mm": torch.ones_like(truth.visible),
        "spread_visible_mm": truth.visible,
        "spread_occluded_mm": ~truth.visible,
    }
    spreads = {name: {"all": spread_mm(joints_cam_m, mask).item()} for name, mask in masks.items()}
    middle_m = about_pelvis(joints_cam_m).mean(dim=0)
    error_mm = MM_PER_M * (middle_m - about_pelvis(truth.joints_cam_m)).norm(dim=-1)
    by_metric = {"std": joint_std_mm(joints_cam_m), "error": error_mm}
    joint_masks = {"visible": truth.visible, "hidden": hidden_by_occluder(truth)}
    by_joint: dict[str, dict[str, float]] = {
        f"{metric}_{visibility}_mm": dict(
            zip(JOINT_NAMES[1:], torch.where(mask, values, torch.nan)[1:].tolist(), strict=True)
        )
        for metric, values in by_metric.items()
        for visibility, mask in joint_masks.items()
    }
    return {**spreads, **by_joint, "calibration_80": {"all": coverage(joints_cam_m, truth.joints_cam_m)}}


def _score(scorer: Scorer, sample: Sample, params: BodyParams, errors: Mapping[str, Tensor]) -> ScoredGroup:
    group_size = params.batch_shape[0]
    found = scorer.score(sample, Hypotheses(params, sample.camera))
    scores = checked_scores(scorer.name, found, group_size)
    return ScoredGroup(
        sample.id, tuple(scores), {metric: values[:group_size].numpy() for metric, values in errors.items()}
    )


def _reduce(
    errors: Mapping[str, Float[Tensor, " samples_and_average"]],
    group: ScoredGroup | None,
    num_samples: int,
    group_size: int,
    counts: Sequence[int],
) -> dict[str, dict[str, float]]:
    return {
        metric: {
            **{f"min{count}": min_of_errors(values[:num_samples], count).item() for count in counts},
            "mean": mean_of_errors(values[:num_samples]).item(),
            f"pick{group_size}": _picked(values[:group_size], group),
            "hyp0": values[0].item(),
            "averaged": values[num_samples].item(),
        }
        for metric, values in errors.items()
    }


def _picked(errors: Float[Tensor, " group"], group: ScoredGroup | None) -> float:
    """NaN, which means leave out, without a scorer or without any score in the group."""
    picked = None if group is None else pick_of_errors(errors, group.scores)
    return float("nan") if picked is None else picked.item()


def mean_or_none(values: Float[np.ndarray, "*shape"]) -> float | None:
    """The mean of the values that are not NaN; None if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
