"""The tables of the study of alignment: what every arm is worth beside the base and beside its rivals.

Cells are means over seeds and test images. A difference is taken image by image and seed by seed, from the same noise;
its 95 % interval is the percentile bootstrap that draws seeds and images anew (`eval.benchmark.intervals`), of a single seed over
images alone. Per cents are of the rival's own mean, which is drawn anew with the rest. Bold: the interval excludes 0.

"The base at its spread" is the base sampled with less noise until it is as narrow as the arm, interpolated between the
two scales around that: lowering an error below it is what narrowing does not explain.
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
MEASURES = {  # name -> where a report has it
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
BARS = ("mean", "h_0", "min 100", "pick of 20")
RIVALS = (
    "hmr-scorer, dpo", "hmr-scorer, dpo, ADHMR's numbers", "embedded, dpo", "embedded, sft", "shuffled, weighted",
    "lab labels",
)  # fmt: skip
NARROWED = "the base at its spread"


@dataclass(frozen=True)
class StudyRuns:
    """Reports of equal seeds at equal places: of each arm one a seed, of the base one a seed and scale, from 1 down."""

    arms: dict[str, list[Report]]
    bases: list[list[Report]]
    made_from: dict[str, Any]  # the base policy's digest, the benchmark's, and M

    def of(self, arm: str, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.arms[arm]])

    def base(self, measure: str) -> Values:
        return np.stack([_values(scales[0], measure) for scales in self.bases])

    def narrowed(self, arm: str, measure: str) -> Values:
        """The base, each seed as narrow as that seed of the arm."""
        pairs = zip(self.bases, self.arms[arm], strict=True)
        return np.stack([at_spread(scales, report.spread_mm(), measure) for scales, report in pairs])


def at_spread(scales: Sequence[Report], spread_mm: float, measure: str) -> Float[np.ndarray, " images"]:
    """A measure of the base at less noise, linearly between the scales around the spread; beyond them the nearest."""
    known = [report.spread_mm() for report in scales]  # falling
    place = float(np.interp(-spread_mm, [-spread for spread in known], range(len(known))))
    wider = min(int(place), len(scales) - 1)
    narrower, share = min(wider + 1, len(scales) - 1), place - wider
    return (1 - share) * _values(scales[wider], measure) + share * _values(scales[narrower], measure)


def markdown(runs: StudyRuns) -> str:
    """What it was made from, every arm beside the base, and in per cent beside each rival that was run."""
    shown = [
        name for name in MEASURES if not np.isnan(runs.base(name)).all()
    ]  # nobody picks without a critic
    told = {**runs.made_from, "seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    lines = [", ".join(f"{name} {value}" for name, value in told.items()), ""]
    lines += [_line(["", *shown]), "|---|" + "---:|" * len(shown)]
    lines.append(_line(["base", *(_number(name, runs.base(name)) for name in shown)]))
    for arm in runs.arms:
        lines.append(_line([arm, *(_cell(runs, arm, name) for name in shown)]))
    bars = [name for name in BARS if name in shown]
    lines += ["", _line(["", "less, in % of", *bars]), "|---|---|" + "---:|" * len(bars)]
    for arm in runs.arms:
        for rival in _rivals(runs, arm):
            cells = [_told(_percent(runs, arm, rival, name), 1) for name in bars]
            if cells != ["-"] * len(bars):
                lines.append(_line([arm, rival, *cells]))
    return "\n".join(lines)


def to_json(runs: StudyRuns) -> dict[str, Any]:
    """All of the tables, intervals as [mean, low, high]."""
    arms = {
        arm: {
            "mean": {name: _mean(runs.of(arm, name)) for name in MEASURES},
            "minus_base": {name: _listed(_difference(runs, arm, name)) for name in MEASURES},
            "percent_less": {
                rival: {name: _listed(_percent(runs, arm, rival, name)) for name in BARS}
                for rival in _rivals(runs, arm)
            },
        }
        for arm in runs.arms
    }
    base = {name: _mean(runs.base(name)) for name in MEASURES}
    sizes = {"seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    return {**runs.made_from, **sizes, "base": base, "arms": arms}


def _rivals(runs: StudyRuns, arm: str) -> list[str]:
    return ["base", NARROWED, *(rival for rival in RIVALS if rival in runs.arms and rival != arm)]


def _difference(runs: StudyRuns, arm: str, measure: str) -> Interval | None:
    return bootstrap_mean(runs.of(arm, measure) - runs.base(measure))


def _percent(runs: StudyRuns, arm: str, rival: str, measure: str) -> Interval | None:
    """100 (rival - arm) / rival: above 0 the arm has the lower error."""
    if rival == NARROWED:
        theirs = runs.narrowed(arm, measure)
    else:
        theirs = runs.base(measure) if rival == "base" else runs.of(rival, measure)
    # the ratio of two means is the mean of ratios weighted by what is below the line
    return bootstrap_mean(100 * (1 - runs.of(arm, measure) / theirs), weights=np.nan_to_num(theirs))


def _values(report: Report, measure: str) -> Float[np.ndarray, " images"]:
    metric, reduction = MEASURES[measure]
    return report.values[metric].get(reduction, np.full(len(report.sample_ids), np.nan))


def _cell(runs: StudyRuns, arm: str, measure: str) -> str:
    told = _told(_difference(runs, arm, measure), _digits(measure))
    return f"{_number(measure, runs.of(arm, measure))}, {told}"


def _number(measure: str, values: Values) -> str:
    mean = _mean(values)
    return "-" if mean is None else f"{mean:.{_digits(measure)}f}"


def _digits(measure: str) -> int:
    return 2 if measure == "calibration_80" else 1


def _told(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    mean = round(interval.mean, digits) + 0.0  # no "-0.0"
    text = f"{mean:+.{digits}f} ± {interval.half_width:.{digits}f}"
    return f"**{text}**" if interval.excludes_zero else text


def _mean(values: Values) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(dataclasses.astuple(interval))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
