"""The report of a policy on a prepared real data set, its files and its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from common.storage.files import write_text
from eval.benchmark.tables import METRIC_NAMES
from hmr.datasets.flaws import Flaws
from hmr.datasets.joints import COCO17

__all__ = ["AnnotatedReport", "report_tables"]

Shares = Mapping[str, Mapping[str, Mapping[str, float | None]]]


@dataclass(frozen=True)
class AnnotatedReport:
    """Errors of 3D joints and vertices, and PCK; `people` counts all, the others those who have what the metric
    needs."""

    protocol: str | None  # of the 3D joints; None without any
    errors_mm: Mapping[str, Mapping[str, float]]  # metric -> reduction -> mean over people
    pck: Shares  # estimate -> `pck_0.05` and so on -> `all` or joint; empty without COCO keypoints
    people: int
    people_in_space: int  # with every joint of the protocol
    people_with_vertices: int  # with PVE
    people_in_image: int  # with COCO keypoints
    people_scored: int | None  # with a score of the critic; None without a critic
    without_pve: Mapping[str, int]  # people with SMPL parameters but no PVE, by reason
    flaws: Flaws  # of the people that are left out
    per_person: tuple[Mapping[str, Any], ...]  # one row per person that was compared, in the order of the set

    def to_json(self) -> dict[str, Any]:
        """Without the rows of the people."""
        left_out = ("flaws", "per_person")
        numbers = {name: value for name, value in vars(self).items() if name not in left_out}
        return {**numbers, **self.flaws.to_json()}

    def write(self, folder: Path, details: Mapping[str, Any]) -> None:
        """summary.json (`to_json` and `details`) and people.jsonl (one row per person)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "people.jsonl", "".join(json.dumps(row) + "\n" for row in self.per_person))
        write_text(folder / "summary.json", json.dumps({**self.to_json(), **details}, indent=1))


def report_tables(report: AnnotatedReport) -> Iterator[Table]:
    """Errors in space, PCK over all joints, and PCK of each joint, as far as the set has them."""
    if report.errors_mm:
        yield _error_table(report)
    if report.pck:
        yield _pck_table(report)
        yield _joint_table(report)


def _error_table(report: AnnotatedReport) -> Table:
    by = f" by the protocol {report.protocol}" if report.protocol else ""
    table = Table(title=f"Errors in mm{by}, means over people")
    table.add_column("reduction", no_wrap=True)
    for metric in report.errors_mm:
        count = report.people_with_vertices if metric == "pve_mm" else report.people_in_space
        table.add_column(f"{METRIC_NAMES[metric]} ({count} people)", justify="right", no_wrap=True)
    reductions = {name: None for values in report.errors_mm.values() for name in values}
    for name in reductions:
        cells = [values.get(name) for values in report.errors_mm.values()]
        table.add_row(_row_name(name), *("-" if value is None else f"{value:.1f}" for value in cells))
    return table


def _pck_table(report: AnnotatedReport) -> Table:
    table = Table(title=f"PCK of COCO's keypoints, mean over joints ({report.people_in_image} people)")
    table.add_column("estimate", no_wrap=True)
    for threshold in next(iter(report.pck.values())):
        table.add_column(_at(threshold), justify="right", no_wrap=True)
    for name, shares in report.pck.items():
        table.add_row(_row_name(name), *(_share(by_joint["all"]) for by_joint in shares.values()))
    return table


def _joint_table(report: AnnotatedReport) -> Table:
    """One column per estimate, with the values at all thresholds."""
    thresholds = " / ".join(_at(threshold) for threshold in next(iter(report.pck.values())))
    table = Table(title=f"PCK of each joint: {thresholds} of the longer side of the box")
    table.add_column("joint", no_wrap=True)
    for name in report.pck:
        table.add_column(_row_name(name), justify="right")
    for joint in COCO17.joints:
        cells = (" ".join(_share(by[joint]) for by in shares.values()) for shares in report.pck.values())
        table.add_row(joint, *cells)
    return table


def _at(threshold: str) -> str:
    return f"@{threshold.removeprefix('pck_')}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row_name(name: str) -> str:
    """An estimate or a reduction, such as `best20`, in words."""
    for prefix, words in (("min", "best of"), ("best", "best of"), ("pick", "critic's choice of")):
        if (count := name.removeprefix(prefix)).isdigit():
            return f"{words} {count}"
    return {
        "hyp0": "hypothesis 0", "mean": "mean of the hypotheses", "averaged": "averaged body",
    }.get(name, name)  # fmt: skip
