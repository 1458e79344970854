"""Formats the tables of evaluations: a base policy and what was made of it, with intervals, and baselines.

| column   | value                                                                              |
|----------|------------------------------------------------------------------------------------|
| base     | mean over seeds and held-out images                                                |
| x        | the same of another policy, such as the aligned one                                |
| x - base | mean of the paired differences with its 95 % interval; below zero is better, in mm; "-" for few images |

A difference whose interval excludes zero is bold. Spreads are in the same table because alignment that only reduces
them lowers every mean error; a spread itself is neither better nor worse.

Left out: Tables 1 to 4 of arXiv 2602.19180, whose benchmarks (3DPW, Human3.6M) may not be redistributed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rich.table import Table

from eval.benchmark.intervals import Interval, bootstrap_mean, difference_interval
from eval.benchmark.protocol import ERROR_METRICS, SPREAD_METRICS, Report

__all__ = [
    "Row", "baseline_table", "compare", "label", "rich_table", "stack_values",
]  # fmt: skip

METRIC_NAMES = {"mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE", "pve_mm": "PVE"}
SPREAD_LABELS = {
    "spread_visible_mm": "spread, visible joints",
    "spread_occluded_mm": "spread, occluded joints",
}
UNCERTAINTY_LABELS = {
    "calibration_80": "truth inside the central 80 %",
    "spread_occluded_over_visible": "std of a joint, occluded / visible",
    "error_occluded_over_visible": "error of a joint, occluded / visible",
}


@dataclass(frozen=True)
class Row:
    """One measure of every variant. A value is None if no image has one, a difference if too few images have one."""

    metric: str
    reduction: str
    values: Mapping[str, Interval | None]  # by variant
    differences: Mapping[str, Interval | None]  # by variant but the reference: variant - reference, paired

    @property
    def label(self) -> str:
        return label(self.metric, self.reduction)


def label(metric: str, reduction: str) -> str:
    """The measure as a formula, such as `mean_m MPJPE(h_m)`."""
    if metric in SPREAD_LABELS:
        return SPREAD_LABELS[metric]
    name = METRIC_NAMES[metric]
    for prefix, formula in (("min", "min_{{m<{}}} {}(h_m)"), ("pick", "{1}(h_argmax s), m<{0}")):
        if reduction.removeprefix(prefix).isdigit():
            return formula.format(reduction.removeprefix(prefix), name)
    return {
        "mean": f"mean_m {name}(h_m)",
        "hyp0": f"{name}(h_0), zero noise",
        "averaged": f"{name}(avg_m h_m)",
    }[reduction]


def stack_values(reports: Sequence[Report], metric: str, reduction: str) -> Float[np.ndarray, "seeds images"]:
    """Values of one report per seed. Raises ValueError if the reports do not have the same images in the same order."""
    if len({report.sample_ids for report in reports}) != 1:
        raise ValueError("reports can only be compared over the same images in the same order")
    return np.stack([report.values[metric][reduction] for report in reports])


def compare(reports: Mapping[str, Sequence[Report]], *, reference: str = "base", seed: int = 0) -> list[Row]:
    """One row per measure from the reports of each variant, one report per seed; `reference` is one of the variants.

    Raises ValueError if the variants differ in their images or their number of seeds, because differences are paired.
    """
    shapes = {variant: (len(runs), *runs[0].sample_ids) for variant, runs in reports.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"{', '.join(reports)} must have the same seeds and the same images to be paired")
    first = reports[reference][0]
    return [
        _row(reports, reference, metric, reduction, seed)
        for metric in (*ERROR_METRICS, *SPREAD_METRICS)
        for reduction in first.values[metric]
    ]


def _row(
    reports: Mapping[str, Sequence[Report]], reference: str, metric: str, reduction: str, seed: int
) -> Row:
    cells = {variant: stack_values(runs, metric, reduction) for variant, runs in reports.items()}
    return Row(
        metric,
        reduction,
        {variant: bootstrap_mean(table, seed=seed) for variant, table in cells.items()},
        {
            variant: difference_interval(table - cells[reference], seed=seed)
            for variant, table in cells.items()
            if variant != reference
        },
    )


def rich_table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    table = Table(title="Held-out images, mm (95 % bootstrap intervals over seeds and images)")
    header, lines = _cells(rows)
    table.add_column(header[0], no_wrap=True)
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row, line in zip(rows, lines, strict=True):
        if previous is not None and METRIC_NAMES.get(row.metric) != METRIC_NAMES.get(previous):
            table.add_section()
        table.add_row(*line)
        previous = row.metric
    return table


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    variants, differences = list(rows[0].values), list(rows[0].differences)
    reference = next(variant for variant in variants if variant not in differences)
    header = ["measure (mm)", *variants, *(f"{variant} - {reference}" for variant in differences)]
    lines = [
        [
            row.label,
            *(_number(row.values[variant]) for variant in variants),
            *(_difference(row.differences[variant]) for variant in differences),
        ]
        for row in rows
    ]
    return header, lines


def _number(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.1f}"


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    mean = round(interval.mean, 1) + 0.0  # no "-0.0"
    text = f"{mean:+.1f} ± {interval.half_width:.1f}"
    return f"[bold]{text}[/bold]" if interval.excludes_zero else text


def baseline_table(reports: Mapping[str, Report], deterministic: Sequence[str] = ()) -> Table:
    """Means over the images, one column per policy; `deterministic` ones have no calibration."""
    table = Table(title="Held-out scenes, mm")
    table.add_column("measure", no_wrap=True)
    for name in reports:
        table.add_column(name, justify="right")
    first = next(iter(reports.values()))
    for metric in (*ERROR_METRICS, *SPREAD_METRICS):
        for reduction in first.values[metric]:
            columns = [report.values[metric][reduction] for report in reports.values()]
            if not all(np.isnan(values).all() for values in columns):  # no pick without a scorer
                table.add_row(label(metric, reduction), *(f"{np.nanmean(values):.1f}" for values in columns))
    table.add_section()
    calibrations = [{} if name in deterministic else report.uncertainty() for name, report in reports.items()]
    for metric, name in UNCERTAINTY_LABELS.items():
        cells = [calibration.get(metric) for calibration in calibrations]
        table.add_row(name, *("-" if cell is None else f"{cell:.2f}" for cell in cells))
    return table
