"""Writes the trace of a run as one HTML page, with its style and pictures inside, no script, and no request.

Everything in a trace is untrusted text (of models, servers and files), so jinja escapes all of it. The page is bounded:
critiques by the caller, steps, requests and characters of a reply by the limits here; what is left out is counted.

Pictures of a critique, and the texts and pictures of its questions, come from the run's folder, where a command has
written some (`eval.report.trace.pictures`, `eval.report.trace.questions`); otherwise the page says that there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from agent.prompts.prompt_format import format_quantity
from agent.tracing.reading import CritiqueRecords, ReadTrace
from agent.types import QuestionCounts
from common.storage.files import PathLike, write_text
from eval.report.environment import new_environment
from eval.report.trace.graph_figure import NodeRun, graph_figure
from eval.report.trace.pictures import Picture, PictureIndex
from eval.report.trace.questions import KeptParts, Question
from eval.report.trace.requests import question_counts, requests_of, shortened, summary
from eval.report.trace.tables import StepTable, call_tables, step_table

__all__ = ["title_of", "write_trace_page"]

MAX_STEPS = 200  # per critique; an exploration may have thousands
MAX_REQUESTS = 100  # per step

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One node's run."""

    title: str
    table: StepTable
    values: StepTable | None  # all measurements, of a node that measured
    calls: Sequence[StepTable]  # of the agentic mode
    questions: Sequence[Question]
    failures: tuple[str, ...]  # of questions that got no answer


@dataclass(frozen=True)
class Outcome:
    """One hypothesis at the end. `before`: its score before revisions, if they changed it."""

    name: str
    score: float | None
    before: float | None
    place: str  # its rank, or its ranks before and after revisions
    comment: str


@dataclass(frozen=True)
class CritiqueView:
    """One critique as the page shows it."""

    case: str
    trace: str
    started: str  # date and time, UTC: several critiques may be of one case
    summary: str
    outcomes: tuple[Outcome, ...]
    pictures: tuple[Picture, ...]
    graph: Markup
    steps: tuple[Step, ...]
    left_out: int  # steps beyond MAX_STEPS
    questions: QuestionCounts
    revisions: int

    @property
    def best(self) -> float | None:
        known = [item.score for item in self.outcomes if item.score is not None]
        return max(known, default=None)


def write_trace_page(path: PathLike, title: str, read: ReadTrace, run: Path) -> None:
    """Render the critiques and replace the file at `path` in one step. run: the folder that may have their pictures."""
    pictures, parts = PictureIndex(run), KeptParts(run)
    views = [_critique_view(critique, pictures, parts) for critique in read.critiques]
    template = _environment().get_template("trace/page.html.jinja")
    facts, shared = _facts(read, views), parts.pictures
    write_text(path, template.render(title=title, facts=facts, views=views, found=read.found, shared=shared))


def _facts(read: ReadTrace, views: Sequence[CritiqueView]) -> dict[str, str]:
    records = [record for critique in read.critiques for record in critique.records]
    requests = [request for record in records for request in requests_of(record)]
    questions = sum((view.questions for view in views), QuestionCounts())
    backends = Counter(request.backend for request in requests)
    return {
        "critiques": f"{len(views)} of {read.found}",
        "backend": ", ".join(name for name, _ in backends.most_common(4)) or "none",
        "requests": f"{len(requests):,}",
        "tokens in, out": f"{sum(r.tokens_in for r in requests):,}, {sum(r.tokens_out for r in requests):,}",
        "lost questions": f"{questions.lost} of {questions.asked}",
        "time in nodes": f"{sum(record['ms'] for record in records) / 1e3:,.1f} s",
    }


def _critique_view(critique: CritiqueRecords, pictures: PictureIndex, parts: KeptParts) -> CritiqueView:
    records, shown = critique.records, {}
    return CritiqueView(
        case=critique.case,
        trace=critique.trace,
        started=_started(records),
        summary=summary(records),
        outcomes=_outcomes(records),
        pictures=tuple(pictures.of(critique.trace)),
        graph=graph_figure([NodeRun(record["node"], float(record["ms"])) for record in records]),
        steps=tuple(_step(record, parts, shown) for record in records[:MAX_STEPS]),
        left_out=max(0, len(records) - MAX_STEPS),
        questions=question_counts(records),
        revisions=sum(record["node"] == "revise" for record in records),
    )


def _started(records: Sequence[Record]) -> str:
    """Empty where a record, edited by hand, has no valid time."""
    try:
        return datetime.fromtimestamp(float(records[0]["started"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""


def _step(record: Record, parts: KeptParts, shown: dict[str, str]) -> Step:
    """shown: ids of the texts that the critique has shown, by hash."""
    outputs = record["outputs"]
    failures = outputs.get("failures")
    said = [item for item in failures if isinstance(item, dict)] if isinstance(failures, list) else []
    return Step(
        title=f"{record['node']}",
        table=step_table(record),
        values=_values(outputs),
        calls=call_tables(record)[:MAX_REQUESTS],
        questions=parts.questions(requests_of(record)[:MAX_REQUESTS], shown),
        failures=tuple(f"{item.get('task', '')}: {item.get('reason', '')}" for item in said),
    )


def _values(outputs: Record) -> StepTable | None:
    """All measurements of a step by metric and hypothesis; None for a step that measured nothing."""
    evidence = [
        item
        for name in ("evidence", "reobserved_evidence", "score_evidence")
        if isinstance(items := outputs.get(name), list)
        for item in items
    ]
    # Another version, or a hand, may have written anything.
    try:
        rows = [
            (str(item["metric"]), *(_quantity(value, item["unit"]) for value in item["values"]))
            for item in evidence
        ]
    except (KeyError, TypeError, ValueError):
        return None
    count = max((len(row) for row in rows), default=1) - 1
    if not count:
        return None
    columns = ("metric", *(f"h{index}" for index in range(count)))
    return StepTable("All measurements", columns, rows)


def _quantity(value: float | None, unit: str) -> str:
    return "-" if value is None else format_quantity(value, unit)


def _outcomes(records: Sequence[Record]) -> tuple[Outcome, ...]:
    """Best first. Scores are merged as by the state's reducer: a revision replaces them."""
    first: dict[str, float | None] = {}
    last: dict[str, float | None] = {}
    said: dict[str, str] = {}
    for record in records:
        scores = {index: _number(score) for index, score in _by_hypothesis(record, "scores").items()}
        first, last = {**scores, **first}, {**last, **scores}
        for name in ("comments", "reasons"):
            said |= {index: str(text) for index, text in _by_hypothesis(record, name).items()}
    order, before = _ranking(last), _ranking(first)
    return tuple(
        Outcome(
            name=f"h{index}",
            score=last[index],
            before=first[index] if first[index] != last[index] else None,
            place=_place(before, order, index),
            comment=said.get(index, ""),
        )
        for index in [*order, *(index for index in last if index not in order)]
    )


def _by_hypothesis(record: Record, name: str) -> dict[str, Any]:
    found = record["outputs"].get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _ranking(scores: Mapping[str, float | None]) -> list[str]:
    """The hypotheses with a score, best first."""
    known = {index: score for index, score in scores.items() if score is not None}
    return sorted(known, key=lambda index: -known[index])


def _place(before: Sequence[str], after: Sequence[str], index: str) -> str:
    if index not in after:
        return "-"
    place = after.index(index) + 1
    if index not in before or (old := before.index(index) + 1) == place:
        return str(place)
    return f"{old} → {place}"


@cache
def _environment() -> jinja2.Environment:
    environment = new_environment()
    environment.filters["shortened"] = shortened
    return environment


def title_of(run: Path) -> str:
    """The name of the run's folder; the page may be passed on, so that it has no whole path."""
    folder = run.resolve()
    return f"Trace of {folder.name if folder.is_dir() else folder.parent.name}"
