"""Evaluations on disk, so that a second run need not measure again what has not changed.

A key names everything that shaped a result but the code: after a change of the code remove the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark.protocol import Report, ScoredGroup

__all__ = ["cached_report", "load_report", "save_report"]


def cached_report(path: Path, key: Mapping[str, Any], evaluate: Callable[[], Report]) -> Report:
    """The report in `path` if it was made from `key`; else `evaluate`'s, then kept there."""
    report = load_report(path, key)
    if report is None:
        report = evaluate()
        save_report(path, report, key)
    return report


def save_report(path: Path, report: Report, key: Mapping[str, Any]) -> None:
    """`key` is everything that shaped the report; `load_report` asks for it back."""
    arrays: dict[str, np.ndarray] = {
        "key": np.array(json.dumps(key, sort_keys=True)),
        "sample_ids": np.array(report.sample_ids),
    }
    for metric, reductions in report.values.items():
        arrays |= {f"values/{metric}/{name}": values for name, values in reductions.items()}
    if report.groups:
        arrays["scores"] = np.array([group.scores for group in report.groups], dtype=float)  # None -> NaN
        for metric in report.groups[0].errors_mm:
            arrays[f"errors/{metric}"] = np.stack([group.errors_mm[metric] for group in report.groups])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def load_report(path: Path, key: Mapping[str, Any]) -> Report | None:
    """The report in `path` if it was made from `key`, else None."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if str(arrays["key"]) != json.dumps(key, sort_keys=True):
        return None
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith("values/"):
            _, metric, reduction = name.split("/")
            values.setdefault(metric, {})[reduction] = array
    sample_ids = tuple(str(sample_id) for sample_id in arrays["sample_ids"])
    return Report(sample_ids, values, _groups(sample_ids, arrays) if "scores" in arrays else ())


def _groups(sample_ids: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> tuple[ScoredGroup, ...]:
    errors = {
        name.removeprefix("errors/"): rows for name, rows in arrays.items() if name.startswith("errors/")
    }
    return tuple(
        ScoredGroup(
            sample_id,
            tuple(None if np.isnan(score) else float(score) for score in arrays["scores"][index]),
            {metric: rows[index] for metric, rows in errors.items()},
        )
        for index, sample_id in enumerate(sample_ids)
    )
