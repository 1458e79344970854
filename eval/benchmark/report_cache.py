"""Caches evaluations on disk.

A key holds everything that shapes a report except the code; after a change of the code remove the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.reading.array_files import open_npz
from common.storage.files import atomic_path
from eval.benchmark.protocol import Report, ScoredGroup

__all__ = ["cached_report", "load_report", "save_report"]


def cached_report(path: Path, key: Mapping[str, Any], evaluate: Callable[[], Report]) -> Report:
    """The report in `path` if its key is `key`, else that of `evaluate`, which is then saved there."""
    report = load_report(path, key)
    if report is None:
        report = evaluate()
        save_report(path, report, key)
    return report


def save_report(path: Path, report: Report, key: Mapping[str, Any]) -> None:
    """Save a report with its key, which `load_report` compares."""
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
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_report(path: Path, key: Mapping[str, Any]) -> Report | None:
    """The report in `path` if its key is `key`, else None, as for a damaged file."""
    try:
        with open_npz(path) as file:
            arrays = {name: file.read(name) for name in ("key", *file.names)}
    except (FileNotFoundError, ValueError):
        return None
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
