"""The table of `meshcritic critic-eval`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS
from eval.benchmark.tables import METRIC_NAMES
from eval.critics.comparison import CriticEval, CriticFigures

__all__ = ["critic_table"]

Line = list[str]


def critic_table(found: CriticEval) -> Table:
    """SRCC against each error, KRCC and PLCC against MPJPE, and the agent's lead; bold where it excludes zero."""
    table = Table(title="Agreement with the truth within a group (95 % bootstrap intervals over groups)")
    header, *lines = _lines(list(found.critics.values()))
    alone = _lines(list(found.evidence.values()))[1:] if found.evidence else []
    table.add_column(header[0], no_wrap=True)
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    if alone:
        table.add_section()
    for line in alone:
        table.add_row(*line)
    return table


def _lines(figures: Sequence[CriticFigures]) -> list[Line]:
    compared = any(critic.behind is not None for critic in figures)
    names = [METRIC_NAMES[error] for error in ERROR_METRICS]
    header = ["critic", *(f"SRCC {name}" for name in names), "KRCC MPJPE", "PLCC MPJPE"]
    header += [f"agent - it, {names[0]}"] if compared else []
    return [header, *(_line(critic, compared) for critic in figures)]


def _line(critic: CriticFigures, compared: bool) -> Line:
    first = critic.agreements[ERROR_METRICS[0]]
    cells = [_interval(critic.agreements[error].srcc) for error in ERROR_METRICS]
    cells += [_value(first.krcc), _value(first.plcc)]
    if compared:
        cells.append(_lead(critic.behind[ERROR_METRICS[0]]) if critic.behind else "")
    return [critic.name, *cells]


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _value(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f}"


def _lead(interval: Interval | None) -> str:
    text = _interval(interval)
    return f"[bold]{text}[/bold]" if interval is not None and interval.excludes_zero else text
