"""One table of results: rows with intervals beside the paper's own numbers, and which of the paper's claims hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eval.benchmark.intervals import Interval

__all__ = ["Claim", "Column", "ResultTable", "TableRow", "Verdict"]

Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    digits: int = 1


@dataclass(frozen=True)
class TableRow:
    """The cells of our run, and the paper's numbers for the same row; both by column."""

    name: str
    cells: Mapping[str, Interval | None]
    paper: Mapping[str, float] = field(default_factory=dict)
    uses_truth: bool = False


@dataclass(frozen=True)
class Claim:
    """An ordering that the paper reports. difference: paired, above 0 where the ordering is ours too."""

    sentence: str
    difference: Interval | None
    digits: int = 1

    @property
    def verdict(self) -> Verdict:
        """By the 95 % interval; "not decided" if it contains zero or was not measured."""
        if self.difference is None or not self.difference.excludes_zero:
            return "not decided"
        return "holds" if self.difference.low > 0 else "does not hold"


@dataclass(frozen=True)
class ResultTable:
    """name: "table-1" and so on. protocol: a line that states every choice beside the numbers. data: name of the data
    set that the numbers are of, if it is not the open benchmark."""

    name: str
    title: str
    protocol: str
    columns: Sequence[Column]
    paper_columns: Sequence[Column]
    paper_source: str
    rows: Sequence[TableRow]
    claims: Sequence[Claim]
    data: str = ""

    def records(self) -> list[dict[str, Any]]:
        """One flat record per cell, for Parquet."""
        ours = [
            self._record(row, column, "ours", row.cells.get(column.key))
            for row in self.rows
            for column in self.columns
        ]
        theirs = [
            self._record(row, column, "paper", Interval(value, value, value))
            for row in self.rows
            for column in self.paper_columns
            if (value := row.paper.get(column.key)) is not None
        ]
        return [*ours, *theirs]

    def _record(self, row: TableRow, column: Column, source: str, cell: Interval | None) -> dict[str, Any]:
        values = (None, None, None) if cell is None else (cell.mean, cell.low, cell.high)
        return {
            "table": self.name,
            "data": self.data or "open benchmark",
            "row": row.name,
            "uses_truth": row.uses_truth,
            "column": column.title,
            "source": source,
            **dict(zip(("value", "low", "high"), values, strict=True)),
            "protocol": self.protocol if source == "ours" else self.paper_source,
        }
