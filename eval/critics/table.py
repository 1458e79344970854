"""Formats the table of `meshcritic critic-eval`."""

from __future__ import annotations

from rich.table import Table

from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS
from eval.benchmark.tables import METRIC_NAMES
from eval.critics.comparison import CriticComparison, CriticResult

__all__ = ["critic_table"]


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
