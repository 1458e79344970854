"""The tables of the study of alignment: every arm between its three bounds.

| row                    | what it bounds                                                                         |
|------------------------|----------------------------------------------------------------------------------------|
| base                   | no alignment                                                                           |
| the base at its spread | the base sampled with less noise until its spread equals that of the arm, interpolated |
|                        | between the two neighbouring scales: an alignment that only narrows gets no further    |
| ceiling (uses truth)   | the base fine-tuned on the truth of the very images, with the same steps               |

The headline is recovered headroom,

    recovered(e) = (e(base) - e(aligned)) / (e(base) - e(ceiling))          e: mean over seeds and test images

for hypothesis 0, the averaged pose and the minimum over M, which narrowing does not lower: 0 is the base, 1 the
ceiling. Beside it plausibility and agreement with the image (`eval.benchmark.measures`), each as a difference from the
base at the same spread, and the values of the true bodies, whose self-penetration and imbalance are not 0.

Cells are means over seeds and test images. A difference is paired by image and seed, with equal noise. All 95 %
intervals are percentile bootstraps over seeds and images (`eval.benchmark.intervals`), for a single seed over images
only; numerator and denominator of a ratio are resampled together. Bold: the interval excludes 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from agent.agreement import mean_agreement
from eval.benchmark.headroom import headroom_measures, recovered_share
from eval.benchmark.intervals import Interval, bootstrap_mean, bootstrap_ratio
from eval.benchmark.measures.body_measures import BODY_MEASURES, FIRST
from eval.benchmark.measures.image_agreement import AGREEMENT
from eval.benchmark.measures.plausibility import PLAUSIBILITY
from eval.benchmark.protocol import Report

__all__ = ["CEILING_NAME", "SCALES", "StudyRuns", "at_spread", "markdown", "to_json"]

Values = Float[np.ndarray, "seeds images"]
CEILING_NAME = "labels"
SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)  # of the base's starting noise
NARROWED = "the base at its spread"
MPJPE = "mpjpe_mm"
REDUCTIONS = ("mean", "hyp0", "averaged", "min20", "pick20")  # of MPJPE, besides the minimum over M
FLAT = ("spread_visible_mm", "spread_occluded_mm", "calibration_80")
CONTROLS = (  # what the methods are compared with, if it was run
    "hmr-scorer, dpo", "embedded, dpo", "embedded, sft", "pseudo-labels, averaged", "pseudo-labels, fit",
    "pseudo-labels, reading", "studio labels", "shuffled, resample", "fit, then fit",
    "fit, then shuffled, policy-gradient",
)  # fmt: skip
DIGITS = {
    "calibration_80": 2,
    "silhouette_iou": 3,
    "reprojection_detected_percent": 2,
    "reprojection_true_percent": 2,
}


@dataclass(frozen=True)
class StudyRuns:
    """Reports in the order of seeds: one per arm and seed and of the ceiling, and for the base one per seed and scale,
    of SCALES, from 1 down to the spread of the narrowest arm."""

    arms: dict[str, list[Report]]
    ceiling: list[Report]
    bases: list[list[Report]]
    made_from: dict[str, Any]  # the base policy's digest, the benchmark's, and M
    uses_truth: frozenset[str] = frozenset()  # the arms that do
    truth: Report | None = None  # plausibility and agreement of the true bodies

    @property
    def errors(self) -> list[str]:
        """Names of the errors, the minimum over M among them."""
        return list(dict.fromkeys((*REDUCTIONS[:-1], self.minimum, REDUCTIONS[-1])))

    @property
    def minimum(self) -> str:
        return f"min{self.made_from['M']}"

    @property
    def headline(self) -> tuple[str, ...]:
        """The errors of recovered headroom."""
        return tuple(headroom_measures(self.made_from["M"]))

    def of(self, arm: str, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.arms[arm]])

    def base(self, measure: str, scale: int = 0) -> Values:
        """At the scale of this number."""
        return np.stack([_values(scales[scale], measure) for scales in self.bases])

    def top(self, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.ceiling])

    def true(self, measure: str) -> Values:
        """NaN where the true bodies are not measured."""
        images = len(self.bases[0][0].sample_ids)
        return np.full((1, images), np.nan) if self.truth is None else _values(self.truth, measure)[None]

    def narrowed(self, arm: str, measure: str) -> Values:
        """The base at the spread of the arm, seed by seed."""
        pairs = zip(self.bases, self.arms[arm], strict=True)
        return np.stack([at_spread(scales, report.spread_mm(), measure) for scales, report in pairs])

    def agent_srcc(self) -> float | None:
        """The rank correlation of the picking agent's scores with the errors of the base's groups; None without."""
        groups = [group for scales in self.bases for group in scales[0].groups]
        return mean_agreement([(group.scores, group.errors_mm[MPJPE].tolist()) for group in groups]).srcc


def at_spread(scales: Sequence[Report], spread_mm: float, measure: str) -> Float[np.ndarray, " images"]:
    """A measure of the base at this spread: linear between the neighbouring scales, outside them the nearest one."""
    spreads = [report.spread_mm() for report in scales]  # decreasing
    position = float(np.interp(-spread_mm, [-spread for spread in spreads], range(len(spreads))))
    wider = min(int(position), len(scales) - 1)
    narrower, share = min(wider + 1, len(scales) - 1), position - wider
    return (1 - share) * _values(scales[wider], measure) + share * _values(scales[narrower], measure)


# -- JSON ------------------------------------------------------------------------------------------------------


def to_json(runs: StudyRuns) -> dict[str, Any]:
    """The content of the tables, intervals as [value, low, high]."""
    measures = (*runs.errors, *FLAT, *BODY_MEASURES)
    sizes = {"seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    return {
        **runs.made_from,
        **sizes,
        "agent_srcc": runs.agent_srcc(),
        "recovered": {arm: _recovered_json(runs, arm, runs.of) for arm in runs.arms},
        "recovered_at_spread": {arm: _recovered_json(runs, arm, runs.narrowed) for arm in runs.arms},
        "plausibility": _beside_base(runs, PLAUSIBILITY),
        "agreement": _beside_base(runs, AGREEMENT),
        "base": {name: _mean(runs.base(name)) for name in measures},
        "ceiling": {name: _mean(runs.top(name)) for name in measures},
        "truth": {name: _mean(runs.true(name)) for name in BODY_MEASURES},
        "arms": {arm: _arm_json(runs, arm, measures) for arm in runs.arms},
    }


def _recovered_json(runs: StudyRuns, arm: str, values: Callable[[str, str], Values]) -> dict[str, Any]:
    return {name: _as_list(_recovered(runs, arm, name, values)) for name in runs.headline}


def _beside_base(runs: StudyRuns, metrics: Sequence[str]) -> dict[str, Any]:
    """Each metric of each arm beside the base and the base at the arm's spread."""
    return {
        arm: {
            name: {
                "value": _mean(runs.of(arm, name)),
                "base": _mean(runs.base(name)),
                "base_at_spread": _mean(runs.narrowed(arm, name)),
                "minus_base_at_spread": _as_list(_minus_narrowed(runs, arm, name)),
            }
            for name in metrics
        }
        for arm in runs.arms
    }


def _arm_json(runs: StudyRuns, arm: str, measures: Sequence[str]) -> dict[str, Any]:
    return {
        "uses_truth": arm in runs.uses_truth,
        "mean": {name: _mean(runs.of(arm, name)) for name in measures},
        "minus_base": {name: _as_list(_minus_base(runs, arm, name)) for name in measures},
        "percent_less": {
            baseline: {name: _as_list(_percent(runs, arm, baseline, name)) for name in runs.errors}
            for baseline in _baselines(runs, arm)
        },
    }


# -- markdown --------------------------------------------------------------------------------------------------


def markdown(runs: StudyRuns) -> str:
    """The inputs, then four tables: errors between the bounds, recovered headroom, plausibility and agreement, and the
    errors of the methods relative to the baselines that were run."""
    sizes = {"seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    inputs = {**runs.made_from, **sizes, "SRCC of the agent": _rounded(runs.agent_srcc(), 3)}
    first = [", ".join(f"{name} {value}" for name, value in inputs.items())]
    tables = (_error_table(runs), _recovered_table(runs), _body_table(runs), _baseline_table(runs))
    return "\n\n".join("\n".join(lines) for lines in (first, *tables))


def _error_table(runs: StudyRuns) -> list[str]:
    """The base, also with less noise, the ceiling, and every arm with its difference from the base and, under it, the
    base at its spread."""
    shown = [name for name in (*runs.errors, *FLAT) if not np.isnan(runs.base(name)).all()]

    def bound(title: str, truth: str, values: Callable[[str], Values]) -> str:
        return _line([title, truth, *(_number(name, values(name)) for name in shown)])

    lines = _header("", "uses truth", *shown)
    for number in range(min(map(len, runs.bases))):
        title = "base" + f", noise x {SCALES[number]:g}" * (number > 0)
        lines.append(bound(title, "no", lambda name, number=number: runs.base(name, number)))
    lines.append(bound(f"{CEILING_NAME} (ceiling)", "yes", runs.top))
    for arm in runs.arms:
        cells = (
            f"{_number(name, runs.of(arm, name))}, {_format(_minus_base(runs, arm, name), _digits(name))}"
            for name in shown
        )
        lines.append(_line([arm, "yes" if arm in runs.uses_truth else "no", *cells]))
        lines.append(bound(NARROWED, "no", lambda name, arm=arm: runs.narrowed(arm, name)))
    return lines


def _recovered_table(runs: StudyRuns) -> list[str]:
    lines = _header("recovered headroom", "uses truth", *runs.headline)
    for arm in runs.arms:
        cells = (_format(_recovered(runs, arm, name, runs.of), 2) for name in runs.headline)
        lines.append(_line([arm, "yes" if arm in runs.uses_truth else "no", *cells]))
    return lines


def _body_table(runs: StudyRuns) -> list[str]:
    """Plausibility and agreement of the first hypotheses; differences from the base at the arm's spread."""
    lines = _header(f"first {FIRST} hypotheses", *BODY_MEASURES)
    lines.append(_line(["base", *(_number(name, runs.base(name)) for name in BODY_MEASURES)]))
    lines.append(_line([CEILING_NAME, *(_number(name, runs.top(name)) for name in BODY_MEASURES)]))
    lines.append(_line(["the true bodies", *(_number(name, runs.true(name)) for name in BODY_MEASURES)]))
    for arm in runs.arms:
        cells = (
            f"{_number(name, runs.of(arm, name))}, {_format(_minus_narrowed(runs, arm, name), _digits(name))}"
            for name in BODY_MEASURES
        )
        lines.append(_line([arm, *cells]))
    return lines


def _baseline_table(runs: StudyRuns) -> list[str]:
    compared = (*runs.headline, "pick20")
    lines = _header("", "less, in % of", *compared)
    for arm in runs.arms:
        if arm in CONTROLS or arm in runs.uses_truth:
            continue
        for baseline in _baselines(runs, arm):
            cells = (_format(_percent(runs, arm, baseline, name), 1) for name in compared)
            lines.append(_line([arm, baseline, *cells]))
    return lines


# -- cells -----------------------------------------------------------------------------------------------------


def _baselines(runs: StudyRuns, arm: str) -> list[str]:
    return ["base", NARROWED, *(name for name in CONTROLS if name in runs.arms and name != arm)]


def _recovered(
    runs: StudyRuns, arm: str, measure: str, values: Callable[[str, str], Values]
) -> Interval | None:
    return recovered_share(runs.base(measure), values(arm, measure), runs.top(measure))


def _minus_base(runs: StudyRuns, arm: str, measure: str) -> Interval | None:
    return bootstrap_mean(runs.of(arm, measure) - runs.base(measure))


def _minus_narrowed(runs: StudyRuns, arm: str, measure: str) -> Interval | None:
    return bootstrap_mean(runs.of(arm, measure) - runs.narrowed(arm, measure))


def _percent(runs: StudyRuns, arm: str, baseline: str, measure: str) -> Interval | None:
    """100 (baseline - arm) / baseline, of the means: above 0 the error of the arm is lower."""
    if baseline == NARROWED:
        theirs = runs.narrowed(arm, measure)
    else:
        theirs = runs.base(measure) if baseline == "base" else runs.of(baseline, measure)
    return bootstrap_ratio(100 * (theirs - runs.of(arm, measure)), theirs)


def _values(report: Report, measure: str) -> Float[np.ndarray, " images"]:
    if measure in FLAT:
        return report.values[measure]["all"]
    if measure in BODY_MEASURES:
        return report.values[measure][f"first{FIRST}"]
    return report.values[MPJPE].get(measure, np.full(len(report.sample_ids), np.nan))


def _number(measure: str, values: Values) -> str:
    return _rounded(_mean(values), _digits(measure))


def _rounded(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _digits(measure: str) -> int:
    return DIGITS.get(measure, 1)


def _format(interval: Interval | None, digits: int) -> str:
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


def _header(*names: str) -> list[str]:
    return [_line(names), "|---|" + "---:|" * (len(names) - 1)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
