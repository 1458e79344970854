"""The raw replies of the critic's backend, which a critique does not hold, from the trace of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.tracing.reading import read_critiques
from eval.report.run.data import ReportCase
from eval.report.trace.requests import requests_of

__all__ = ["with_replies"]


def with_replies(cases: Sequence[ReportCase], trace: Path) -> tuple[ReportCase, ...]:
    """The cases with the replies that the file `trace` (trace.jsonl) has of their critiques."""
    records = read_critiques(trace, {case.critique.trace_id for case in cases})
    return tuple(
        replace(
            case,
            replies=tuple(
                request
                for record in records.get(case.critique.trace_id, ())
                for request in requests_of(record)
            ),
        )
        for case in cases
    )
