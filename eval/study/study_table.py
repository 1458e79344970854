"""The tables of a study of alignment (`eval.study.runs`), as JSON and as markdown.

Cells are means over seeds and test images. A difference is paired by image and seed, with equal noise. Bold: its 95 %
interval excludes 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.benchmark.intervals import Interval
from eval.benchmark.measures.body_measures import BODY_MEASURES, FIRST
from eval.benchmark.measures.image_agreement import AGREEMENT
from eval.benchmark.measures.plausibility import PLAUSIBILITY
from eval.study.arms import CEILING, NARROWED, UNALIGNED, ArmId
from eval.study.runs import FLAT, SCALES, StudyRuns, Values

__all__ = ["markdown", "to_json"]

DIGITS = {
    "calibration_80": 2,
    "silhouette_iou": 3,
    "reprojection_detected_percent": 2,
    "reprojection_true_percent": 2,
}


# -- JSON ------------------------------------------------------------------------------------------------------


def to_json(runs: StudyRuns) -> dict[str, Any]:
    """The content of the tables, intervals as [value, low, high]."""
    measures = (*runs.errors, *runs.pa_errors, *FLAT, *BODY_MEASURES)
    sizes = {"seeds": len(runs.bases), "images": len(runs.bases[0][0].sample_ids)}
    return {
        **runs.made_from,
        **sizes,
        "agent_srcc": runs.agent_srcc(),
        "recovered": {
            arm.name: {name: _as_list(runs.recovered(arm, name)) for name in runs.headline}
            for arm in runs.arms
        },
        "recovered_at_spread": {
            arm.name: {name: _as_list(runs.recovered_at_spread(arm, name)) for name in runs.headline}
            for arm in runs.arms
        },
        "plausibility": _beside_base(runs, PLAUSIBILITY),
        "agreement": _beside_base(runs, AGREEMENT),
        "base": {name: _mean(runs.base(name)) for name in measures},
        "ceiling": {name: _mean(runs.top(name)) for name in measures},
        "truth": {name: _mean(runs.true(name)) for name in BODY_MEASURES},
        "arms": {arm.name: _arm_json(runs, arm, measures) for arm in runs.arms},
    }


def _beside_base(runs: StudyRuns, metrics: Sequence[str]) -> dict[str, Any]:
    """Each metric of each arm beside the base and the base at the arm's spread."""
    return {
        arm.name: {
            name: {
                "value": _mean(runs.of(arm, name)),
                "base": _mean(runs.base(name)),
                "base_at_spread": _mean(runs.narrowed(arm, name)),
                "minus_base_at_spread": _as_list(runs.minus_narrowed(arm, name)),
            }
            for name in metrics
        }
        for arm in runs.arms
    }


def _arm_json(runs: StudyRuns, arm: ArmId, measures: Sequence[str]) -> dict[str, Any]:
    return {
        "uses_truth": arm in runs.uses_truth,
        "mean": {name: _mean(runs.of(arm, name)) for name in measures},
        "minus_base": {name: _as_list(runs.minus_base(arm, name)) for name in measures},
        "percent_less": {
            baseline.name: {name: _as_list(runs.percent_less(arm, baseline, name)) for name in runs.errors}
            for baseline in runs.baselines(arm)
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
    shown = [name for name in (*runs.errors, *runs.pa_errors, *FLAT) if not np.isnan(runs.base(name)).all()]

    def bound(title: str, truth: str, values: Callable[[str], Values]) -> str:
        return _line([title, truth, *(_number(name, values(name)) for name in shown)])

    lines = _header("", "uses truth", *shown)
    for number in range(min(map(len, runs.bases))):
        title = UNALIGNED.name + f", noise x {SCALES[number]:g}" * (number > 0)
        lines.append(bound(title, "no", lambda name, number=number: runs.base(name, number)))
    lines.append(bound(f"{CEILING.name} (ceiling)", "yes", runs.top))
    for arm in runs.arms:
        cells = (
            f"{_number(name, runs.of(arm, name))}, {_format(runs.minus_base(arm, name), _digits(name))}"
            for name in shown
        )
        lines.append(_line([arm.name, "yes" if arm in runs.uses_truth else "no", *cells]))
        if runs.has_narrower_bases:
            lines.append(bound(NARROWED.name, "no", lambda name, arm=arm: runs.narrowed(arm, name)))
    return lines


def _recovered_table(runs: StudyRuns) -> list[str]:
    lines = _header("recovered headroom", "uses truth", *runs.headline)
    for arm in runs.arms:
        cells = (_format(runs.recovered(arm, name), 2) for name in runs.headline)
        lines.append(_line([arm.name, "yes" if arm in runs.uses_truth else "no", *cells]))
    return lines


def _body_table(runs: StudyRuns) -> list[str]:
    """Plausibility and agreement of the first hypotheses; differences from the base at the arm's spread."""
    lines = _header(f"first {FIRST} hypotheses", *BODY_MEASURES)
    lines.append(_line([UNALIGNED.name, *(_number(name, runs.base(name)) for name in BODY_MEASURES)]))
    lines.append(_line([CEILING.name, *(_number(name, runs.top(name)) for name in BODY_MEASURES)]))
    lines.append(_line(["the true bodies", *(_number(name, runs.true(name)) for name in BODY_MEASURES)]))
    for arm in runs.arms:
        cells = (
            f"{_number(name, runs.of(arm, name))}, {_format(runs.minus_narrowed(arm, name), _digits(name))}"
            for name in BODY_MEASURES
        )
        lines.append(_line([arm.name, *cells]))
    return lines


def _baseline_table(runs: StudyRuns) -> list[str]:
    compared = (*runs.headline, "pick20")
    lines = _header("", "less, in % of", *compared)
    for arm in runs.arms:
        if arm.is_control or arm in runs.uses_truth:
            continue
        for baseline in runs.baselines(arm):
            cells = (_format(runs.percent_less(arm, baseline, name), 1) for name in compared)
            lines.append(_line([arm.name, baseline.name, *cells]))
    return lines


# -- cells -----------------------------------------------------------------------------------------------------


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
