"""The tables of the study of alignment: every arm compared with the base policy and with the baselines.

Cells are means over seeds and test images. A difference is paired by image and seed, with equal noise; its 95 %
interval is the percentile bootstrap over seeds and images (`eval.benchmark.intervals`), for a single seed over images
only. Percentages are relative to the mean of the baseline, which is resampled together with the difference. Bold: the
interval excludes 0.

"The base at its spread" is the base sampled with less noise until its spread equals that of the arm, interpolated
between the two neighbouring scales. An error below it is an improvement that narrowing does not explain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import Report

__all__ = ["StudyRuns", "at_spread", "markdown", "to_json"]

Values = Float[np.ndarray, "seeds images"]
MEASURES = {  # name -> metric and reduction in a report
    "mean": ("mpjpe_mm", "mean"),
    "h_0": ("mpjpe_mm", "hyp0"),
    "averaged": ("mpjpe_mm", "averaged"),
    "min 20": ("mpjpe_mm", "min20"),
    "min 100": ("mpjpe_mm", "min100"),
    "pick of 20": ("mpjpe_mm", "pick20"),
    "spread seen": ("spread_visible_mm", "all"),
    "occluded": ("spread_occluded_mm", "all"),
    "calibration_80": ("calibration_80", "all"),
}
COMPARED = ("mean", "h_0", "min 100", "pick of 20")
BASELINES = (
    "hmr-scorer, dpo", "hmr-scorer, dpo, ADHMR's numbers", "embedded, dpo", "embedded, sft", "shuffled, weighted",
    "lab labels",
)  # fmt: skip
NARROWED = "the base at its spread"


@dataclass(frozen=True)
class StudyRuns:
    """Reports in the order of seeds: one per arm and seed, and for the base one per seed and scale, from 1 down."""

    arms: dict[str, list[Report]]
    bases: list[list[Report]]
    made_from: dict[str, Any]  # the base policy's digest, the benchmark's, and M

    def of(self, arm: str, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.arms[arm]])

    def base(self, measure: str) -> Values:
        return np.stack([_values(scales[0], measure) for scales in self.bases])

    def narrowed(self, arm: str, measure: str) -> Values:
        """The base at the spread of the arm, seed by seed."""
        pairs = zip(self.bases, self.arms[arm], strict=True)
        return np.stack([at_spread(scales, report.spread_mm(), measure) for scales, report in pairs])


def at_spread(scales: Sequence[Report], spread_mm: float, measure: str) -> Float[np.ndarray, " images"]:
    """A measure of the base at this spread: linear between the neighbouring scales, outside them the nearest one."""
    spreads = [report.spread_mm() for report in scales]  # decreasing
    position = float(np.interp(-spread_mm, [-spread for spread in spreads], range(len(spreads))))
    wider = min(int(position), len(scales) - 1)
    narrower, share = min(wider + 1, len(scales) - 1), position - wider
    return (1 - share) * _values(scales[wider], measure) + share * _values(scales[narrower], measure)


def markdown(runs: StudyRuns) -> str:
    """The inputs, a table of every arm against the base, and the gains in per cent over each baseline that was run."""
    # without a critic there are no picks
    shown = [name for name in MEASURES if not np.isnan(runs.base(name)).all()]
    inputs = {**runs.made_from, "seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    lines = [", ".join(f"{name} {value}" for name, value in inputs.items()), ""]
    lines += [_line(["", *shown]), "|---|" + "---:|" * len(shown)]
    lines.append(_line(["base", *(_number(name, runs.base(name)) for name in shown)]))
    for arm in runs.arms:
        lines.append(_line([arm, *(_cell(runs, arm, name) for name in shown)]))
    compared = [name for name in COMPARED if name in shown]
    lines += ["", _line(["", "less, in % of", *compared]), "|---|---|" + "---:|" * len(compared)]
    for arm in runs.arms:
        for baseline in _baselines(runs, arm):
            cells = [_format_interval(_percent(runs, arm, baseline, name), 1) for name in compared]
            if cells != ["-"] * len(compared):
                lines.append(_line([arm, baseline, *cells]))
    return "\n".join(lines)


def to_json(runs: StudyRuns) -> dict[str, Any]:
    """The content of the tables, intervals as [mean, low, high]."""
    arms = {
        arm: {
            "mean": {name: _mean(runs.of(arm, name)) for name in MEASURES},
            "minus_base": {name: _as_list(_difference(runs, arm, name)) for name in MEASURES},
            "percent_less": {
                baseline: {name: _as_list(_percent(runs, arm, baseline, name)) for name in COMPARED}
                for baseline in _baselines(runs, arm)
            },
        }
        for arm in runs.arms
    }
    base = {name: _mean(runs.base(name)) for name in MEASURES}
    sizes = {"seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    return {**runs.made_from, **sizes, "base": base, "arms": arms}


def _baselines(runs: StudyRuns, arm: str) -> list[str]:
    return [
        "base",
        NARROWED,
        *(baseline for baseline in BASELINES if baseline in runs.arms and baseline != arm),
    ]


def _difference(runs: StudyRuns, arm: str, measure: str) -> Interval | None:
    return bootstrap_mean(runs.of(arm, measure) - runs.base(measure))


def _percent(runs: StudyRuns, arm: str, baseline: str, measure: str) -> Interval | None:
    """100 (baseline - arm) / baseline: above 0 the error of the arm is lower."""
    if baseline == NARROWED:
        theirs = runs.narrowed(arm, measure)
    else:
        theirs = runs.base(measure) if baseline == "base" else runs.of(baseline, measure)
    # the ratio of two means is the mean of the ratios weighted by the denominators
    return bootstrap_mean(100 * (1 - runs.of(arm, measure) / theirs), weights=np.nan_to_num(theirs))


def _values(report: Report, measure: str) -> Float[np.ndarray, " images"]:
    metric, reduction = MEASURES[measure]
    return report.values[metric].get(reduction, np.full(len(report.sample_ids), np.nan))


def _cell(runs: StudyRuns, arm: str, measure: str) -> str:
    difference = _format_interval(_difference(runs, arm, measure), _digits(measure))
    return f"{_number(measure, runs.of(arm, measure))}, {difference}"


def _number(measure: str, values: Values) -> str:
    mean = _mean(values)
    return "-" if mean is None else f"{mean:.{_digits(measure)}f}"


def _digits(measure: str) -> int:
    return 2 if measure == "calibration_80" else 1


def _format_interval(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    mean = round(interval.mean, digits) + 0.0  # no "-0.0"
    text = f"{mean:+.{digits}f} ± {interval.half_width:.{digits}f}"
    return f"**{text}**" if interval.excludes_zero else text


def _mean(values: Values) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _as_list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(dataclasses.astuple(interval))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
