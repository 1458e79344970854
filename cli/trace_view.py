"""The tables of one critique for the terminal, and the same for scripts, from the JSONL trace of a run.

Replies are not shown; they are in the file, and on the page of `meshcritic trace --html`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from agent.tracing.reading import CritiqueRecords
from cli.console import escaped_text
from eval.report.trace.requests import requests_of, requests_table, summary
from eval.report.trace.tables import StepTable, call_tables, step_table

__all__ = ["case_json", "show_case"]

NOT_SHOWN = ("text", "thinking")  # of a request


def show_case(critique: CritiqueRecords) -> Iterator[RenderableType]:
    """The tables of all nodes, in the order in which they ran."""
    yield escaped_text(f"case {critique.case}, trace {critique.trace}")
    for record in critique.records:
        yield from map(_rendered, call_tables(record))
        yield _rendered(step_table(record))
        if requests := requests_of(record):
            yield _rendered(requests_table(requests))
    yield escaped_text(summary(critique.records))


def case_json(critique: CritiqueRecords) -> dict[str, Any]:
    """What `show_case` shows: the steps with their requests, and the line about all of them."""
    return {
        "case": critique.case,
        "trace": critique.trace,
        "steps": [
            {
                "node": record["node"],
                "ms": record["ms"],
                "outputs": {name: value for name, value in record["outputs"].items() if name != "replies"},
                "requests": [
                    {name: value for name, value in asdict(request).items() if name not in NOT_SHOWN}
                    for request in requests_of(record)
                ],
            }
            for record in critique.records
        ],
        "summary": summary(critique.records),
    }


def _rendered(found: StepTable) -> Table:
    table = Table(*found.columns, title=escaped_text(found.title), title_justify="left", title_style="bold")
    for row in found.rows:
        table.add_row(*map(escaped_text, row))
    return table
