"""Formats the tables of `meshcritic critic-eval`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS
from eval.benchmark.tables import METRIC_NAMES
from eval.critics.backends import BackendComparison, BackendResult
from eval.critics.comparison import CriticComparison, CriticResult

__all__ = ["backend_tables", "critic_table"]


def critic_table(comparison: CriticComparison) -> Table:
    """SRCC with each error, KRCC and PLCC with MPJPE, and the agent's lead, in bold if its interval excludes zero."""
    table = Table(title="Agreement with the truth within a group (95 % bootstrap intervals over groups)")
    names = [METRIC_NAMES[error] for error in ERROR_METRICS]
    table.add_column("critic", no_wrap=True)
    for name in (*(f"SRCC {name}" for name in names), "KRCC MPJPE", "PLCC MPJPE"):
        table.add_column(name, justify="right", no_wrap=True)
    results = [list(comparison.critics.values()), list(comparison.evidence.values())]
    has_lead = any(critic.agent_lead is not None for critic in results[0])
    if has_lead:
        table.add_column(f"agent minus critic, {names[0]}", justify="right", no_wrap=True)
    for section in results:
        table.add_section()
        for critic in section:
            table.add_row(*_cells(critic, has_lead))
    return table


def _cells(critic: CriticResult, has_lead: bool) -> list[str]:
    first = critic.agreements[ERROR_METRICS[0]]
    cells = [_interval(critic.agreements[error].srcc) for error in ERROR_METRICS]
    cells += [_value(first.krcc), _value(first.plcc)]
    if has_lead:
        cells.append(_lead(critic.agent_lead[ERROR_METRICS[0]]) if critic.agent_lead else "")
    return [critic.name, *cells]


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _value(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f}"


def _lead(interval: Interval | None) -> str:
    text = _interval(interval)
    return f"[bold]{text}[/bold]" if interval is not None and interval.excludes_zero else text


def backend_tables(comparison: BackendComparison) -> list[Table]:
    """Agreement and cost of every backend; with several ones, the paired difference of each two as well."""
    results = list(comparison.backends.values())
    names = [METRIC_NAMES.get(error, error) for error in results[0].agreements]
    agreement = Table(title="Agreement within a group (95 % bootstrap intervals over groups)")
    agreement.add_column("backend", overflow="fold")
    cost = ("groups used", "lost questions", "tokens in", "tokens out", "reply s", "dollars")
    for name in (*(f"SRCC {name}" for name in names), f"KRCC {names[0]}", *cost):
        agreement.add_column(name, justify="right")
    for result in results:
        agreement.add_row(*_backend_cells(result))
    if not comparison.differences:
        return [agreement]
    pairs = Table(title="Difference of SRCC on the same groups, first minus second (bold: without zero)")
    for name in ("first", "second"):
        pairs.add_column(name, overflow="fold")
    for name in names:
        pairs.add_column(name, justify="right", no_wrap=True)
    for (first, second), found in comparison.differences.items():
        pairs.add_row(escape(first), escape(second), *map(_lead, found.values()))
    return [agreement, pairs]


def _backend_cells(result: BackendResult) -> list[str]:
    agreements, questions = list(result.agreements.values()), result.questions
    return [
        escape(result.spec),
        *(_interval(found.srcc) for found in agreements),
        _value(agreements[0].krcc),
        f"{agreements[0].groups_used} of {agreements[0].groups}",
        f"{questions.lost} of {questions.asked}",
        f"{questions.tokens_in:,}",
        f"{questions.tokens_out:,}",
        f"{result.reply_s:,.1f}",
        "-" if result.dollars is None else f"{result.dollars:,.4f}",
    ]
