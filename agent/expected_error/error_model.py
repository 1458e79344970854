"""Expected MPJPE of a hypothesis, with an interval, from the evidence on its group.

Scores rank within a group: the best of eight wrong bodies has a high score. The model here is absolute. It is fitted on
labelled `lab` cases (`eval/critics/error_calibration.py`), on the policy's hypotheses and on those of other people:

    x_j = (a_j, d)                  a_jm = log(1 + v_jm / median of metric m), d: features of the detection
    log e_j = b + w . x_j + r_j     ridge regression, x clipped to the range of the fit and standardised

The interval is split conformal (Lei et al., JASA 2018, arXiv 1604.04173): quantiles of r on other cases than those of
the fit, separately for each quarter of the predictions, because large errors are predicted more precisely than small
ones. It holds for cases like those of the fit; its measured coverage is stored with the model. Left out: means over
the group as features, which hide one good body among bad ones, and models that are not linear: there are few cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from agent.types import ErrorEstimate
from hmr.types import Box, Detection

__all__ = ["ErrorModel", "MeasuredGroup", "detection_features", "fit_error_model"]

INTERVAL = 0.8
QUANTILES = ((1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2)
BINS = 4
RIDGE = 0.003  # per row
CLIPPED = 0.005  # share of the rows of the fit beyond either end of a feature's range
OWN_THAT_FIT = 0.95  # share of the policy's own hypotheses that are taken to fit
MIN_MEASURED = 0.9  # share of hypotheses that a metric must be measured on
MIN_SCALE = 1e-3
MAX_SIGMA = 1.0  # sides of the box; of a detection without points

Values = Mapping[str, Sequence[float | None]]  # of each metric, by hypothesis


@dataclass(frozen=True)
class MeasuredGroup:
    """A group with known errors; `is_own`: the hypotheses are for this image, not for another person."""

    values: Values
    detection: tuple[float, ...]  # `detection_features`
    errors_mm: tuple[float, ...]
    is_own: bool


def detection_features(detection: Detection | None, box: Box) -> tuple[float, float, float]:
    """Log of the mean deviation of the observed joints (sides of the box), mean visibility, and confidence."""
    if detection is None:
        return float(np.log(MAX_SIGMA)), 0.0, 0.0
    sigma = (detection.keypoint_sigma_px / box.side).clamp(1e-4, MAX_SIGMA)
    mean_sigma, visible = float(sigma.mean()), float(detection.keypoint_visibility.mean())
    return float(np.log(mean_sigma)), visible, float(detection.confidence)


@dataclass(frozen=True)
class ErrorModel:
    """A fitted model of the errors of hypotheses that are measured with one detector."""

    detector: str
    metrics: tuple[str, ...]
    scale: tuple[float, ...]  # the median of each metric
    low: tuple[float, ...]  # of each feature, like the next three
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float  # log mm
    edges: tuple[float, ...]  # between the bins of predictions, log mm
    residuals: tuple[tuple[float, float, float], ...]  # of each bin, by QUANTILES
    fits_below_mm: float  # expected error below which a body is taken to fit
    coverage: float | None  # measured share of errors in their interval; None without held-out cases
    groups: int  # of the fit

    def estimate(self, values: Values, detection: Sequence[float], count: int) -> ErrorEstimate | None:
        """The errors of `count` hypotheses; None if a metric of the model was not measured on any of them."""
        if self.unmeasured(values):
            return None
        predicted = self._predict(values, detection, count)
        spread = np.array(self.residuals)[self._bin(predicted)]
        low, expected, high = (np.exp(predicted + spread[:, column]) for column in range(len(QUANTILES)))
        return ErrorEstimate(
            expected_mm=tuple(expected.round(1).tolist()),
            low_mm=tuple(low.round(1).tolist()),
            high_mm=tuple(high.round(1).tolist()),
            confidence_level=INTERVAL,
            coverage=self.coverage,
            none_fits=bool(expected.min() > self.fits_below_mm),
        )

    def unmeasured(self, values: Values) -> list[str]:
        """The metrics of the model that no hypothesis has."""
        return [name for name in self.metrics if all(v is None for v in values.get(name, (None,)))]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> ErrorModel:
        """Raises ValueError, KeyError or TypeError for anything but the content of `to_json`."""
        names = [field.name for field in dataclasses.fields(ErrorModel)]
        fields = {name: item[name] for name in names}
        for name in ("metrics", "scale", "low", "high", "mean", "std", "weights", "edges"):
            fields[name] = tuple(fields[name])
        fields["residuals"] = tuple(map(tuple, fields["residuals"]))
        return ErrorModel(**fields)

    def _predict(
        self, values: Values, detection: Sequence[float], count: int
    ) -> Float[np.ndarray, " hypotheses"]:
        rows = _features(values, detection, count, self.metrics, np.array(self.scale))
        clipped = rows.clip(np.array(self.low), np.array(self.high))
        return self.bias + (clipped - np.array(self.mean)) / np.array(self.std) @ np.array(self.weights)

    def _bin(self, predicted: Float[np.ndarray, " hypotheses"]) -> Int[np.ndarray, " hypotheses"]:
        return np.digitize(predicted, self.edges)


def fit_error_model(
    detector: str, groups: Sequence[MeasuredGroup], held_out: Sequence[MeasuredGroup] = ()
) -> ErrorModel:
    """Fits on every second pair of groups and takes the quantiles of the residuals from the others.

    `groups` alternate between own groups and those of other people. Raises ValueError for fewer than 8 groups or if
    no metric is measured on most hypotheses.
    """
    if len(groups) < 8:
        raise ValueError(f"errors are estimated from at least 8 groups, not {len(groups)}")
    metrics = _measured_metrics(groups)
    scale = np.array([_median(groups, metric) for metric in metrics])
    fitted = [group for row, group in enumerate(groups) if row // 2 % 2 == 0]
    others = [group for row, group in enumerate(groups) if row // 2 % 2 == 1]
    model = _fit_ridge(detector, fitted, metrics, scale, len(groups))
    model = _with_quantiles(model, others)
    return dataclasses.replace(
        model, fits_below_mm=_threshold(model, groups), coverage=_coverage(model, held_out)
    )


def _measured_metrics(groups: Sequence[MeasuredGroup]) -> tuple[str, ...]:
    total = sum(len(group.errors_mm) for group in groups)
    counts: dict[str, int] = {}
    for group in groups:
        for metric, values in group.values.items():
            counts[metric] = counts.get(metric, 0) + sum(value is not None for value in values)
    metrics = tuple(sorted(metric for metric, count in counts.items() if count >= MIN_MEASURED * total))
    if not metrics:
        raise ValueError("no metric is measured on most hypotheses, so errors cannot be estimated")
    return metrics


def _median(groups: Sequence[MeasuredGroup], metric: str) -> float:
    found = [value for group in groups for value in group.values.get(metric, ()) if value is not None]
    return max(float(np.median(found)), MIN_SCALE)


def _features(
    values: Values,
    detection: Sequence[float],
    count: int,
    metrics: Sequence[str],
    scale: Float[np.ndarray, " metrics"],
) -> Float[np.ndarray, "hypotheses features"]:
    """One row per hypothesis; a value that is missing is the mean of the group."""
    table = np.array(
        [[np.nan if v is None else v for v in values.get(metric, (None,) * count)] for metric in metrics],
        dtype=np.float64,
    )
    graded = np.log1p(table.clip(0) / scale[:, None])
    measured = np.isfinite(graded)
    means = np.where(measured, graded, 0).sum(axis=1) / measured.sum(axis=1).clip(1)
    graded = np.where(measured, graded, means[:, None])
    return np.concatenate([graded.T, np.broadcast_to(detection, (count, len(detection)))], axis=1)


def _fit_ridge(
    detector: str,
    groups: Sequence[MeasuredGroup],
    metrics: tuple[str, ...],
    scale: Float[np.ndarray, " metrics"],
    count: int,
) -> ErrorModel:
    rows = np.concatenate(
        [_features(g.values, g.detection, len(g.errors_mm), metrics, scale) for g in groups]
    )
    log_errors = np.log(np.concatenate([group.errors_mm for group in groups]))
    low, high = np.quantile(rows, [CLIPPED, 1 - CLIPPED], axis=0)
    rows = rows.clip(low, high)
    mean, std = rows.mean(axis=0), rows.std(axis=0).clip(1e-6)
    standard = (rows - mean) / std
    bias = float(log_errors.mean())
    gram = standard.T @ standard + RIDGE * len(rows) * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, standard.T @ (log_errors - bias))
    return ErrorModel(
        detector=detector,
        metrics=metrics,
        scale=tuple(scale.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        weights=tuple(weights.tolist()),
        bias=bias,
        edges=(),
        residuals=((0.0, 0.0, 0.0),),
        fits_below_mm=float("inf"),
        coverage=None,
        groups=count,
    )


def _with_quantiles(model: ErrorModel, groups: Sequence[MeasuredGroup]) -> ErrorModel:
    predicted, residuals = _residuals(model, groups)
    edges = np.quantile(predicted, np.arange(1, BINS) / BINS)
    bins = np.digitize(predicted, edges)
    quantiles = [np.quantile(residuals[bins == number], QUANTILES) for number in range(BINS)]
    return dataclasses.replace(
        model, edges=tuple(edges.tolist()), residuals=tuple(tuple(row.tolist()) for row in quantiles)
    )


def _residuals(
    model: ErrorModel, groups: Sequence[MeasuredGroup]
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Predictions and residuals of log errors."""
    predicted = np.concatenate([model._predict(g.values, g.detection, len(g.errors_mm)) for g in groups])
    return predicted, np.log(np.concatenate([group.errors_mm for group in groups])) - predicted


def _threshold(model: ErrorModel, groups: Sequence[MeasuredGroup]) -> float:
    estimates = [model.estimate(g.values, g.detection, len(g.errors_mm)) for g in groups if g.is_own]
    expected = [value for estimate in estimates if estimate for value in estimate.expected_mm]
    return float(np.quantile(expected, OWN_THAT_FIT)) if expected else float("inf")


def _coverage(model: ErrorModel, groups: Sequence[MeasuredGroup]) -> float | None:
    if not groups:
        return None
    predicted, residuals = _residuals(model, groups)
    quantiles = np.array(model.residuals)[model._bin(predicted)]
    return float(((residuals >= quantiles[:, 0]) & (residuals <= quantiles[:, 2])).mean())
