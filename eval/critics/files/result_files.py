"""Writes the scores of critics as Parquet, one row per critic and group, with the agreement of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agent.agreement import group_kendall, group_spearman
from common.storage.files import atomic_path
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.agreement import short_name

__all__ = ["Fields", "group_fields", "group_row", "write_critics", "write_rows"]

Fields = Sequence[tuple[str, pa.DataType]]
MEASURES = {"srcc": group_spearman, "krcc": group_kendall}


def write_critics(path: Path, critics: Mapping[str, Sequence[ScoredGroup]]) -> None:
    """Replace the table at `path`. critics: the groups of each by its name."""
    rows = [
        {"critic": name, **group_row(group, ERROR_METRICS)}
        for name, groups in critics.items()
        for group in groups
    ]
    write_rows(path, rows, [("critic", pa.string()), *group_fields(ERROR_METRICS)])


def write_rows(path: Path, rows: Sequence[dict[str, Any]], fields: Fields) -> None:
    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(list(fields))), partial)


def group_row(group: ScoredGroup, metrics: Sequence[str]) -> dict[str, Any]:
    """Scores, errors, and the correlations that the group has."""
    errors = {error: group.errors_mm[error].tolist() for error in metrics}
    agreement = {
        f"{name}_{short_name(error)}": statistic(group.scores, errors[error])
        for name, statistic in MEASURES.items()
        for error in metrics
    }
    return {"group": group.sample_id, "scores": list(group.scores), **errors, **agreement}


def group_fields(metrics: Sequence[str]) -> Fields:
    """The columns of `group_row`."""
    lists = [(name, pa.list_(pa.float64())) for name in ("scores", *metrics)]
    agreement = [(f"{name}_{short_name(error)}", pa.float64()) for name in MEASURES for error in metrics]
    return [("group", pa.string()), *lists, *agreement]
