"""Views of the rules in a memory: rows for JSON, a table, and one panel per rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.panel import Panel
from rich.table import Table

from cli.console import escaped_text
from memory.ledger import RuleLedger
from memory.rule import Rule, StateChange

__all__ = ["rule_panel", "rule_rows", "rule_table"]

Json = dict[str, Any]


def rule_rows(ledger: RuleLedger, state: str | None = None) -> list[Json]:
    """All rules, or those in one state, with their counts and their history."""
    histories = ledger.histories()
    return [
        _row(rule, histories[rule.rule_id]) for rule in ledger.all() if state is None or rule.state == state
    ]


def _row(rule: Rule, history: Sequence[StateChange]) -> Json:
    gains = [change.gain for change in history if change.gain is not None]
    return {
        "id": rule.rule_id,
        "state": rule.state,
        "uses": rule.uses,
        "successes": rule.successes,
        "weight": rule.predicate.weight if rule.predicate else None,
        "gain": gains[-1] if gains else None,
        "text": rule.text,
        "tags": list(rule.tags),
        "predicate": asdict(rule.predicate) if rule.predicate else None,
        "provenance": asdict(rule.provenance),
        "history": [asdict(change) for change in history],
    }


def rule_table(rows: Sequence[Json]) -> Table:
    table = Table(
        "id", "state", "successes/uses", "weight", "gain", "rule", "measurement", "reason for the state"
    )
    for row in rows:
        cells = (
            escaped_text(row["id"][:8]),
            row["state"],
            f"{row['successes']}/{row['uses']}",
            _number(row["weight"], ".2f"),
            _number(row["gain"], "+.4f"),
        )
        texts = (row["text"], _test(row["predicate"]), row["history"][-1]["reason"])
        table.add_row(*cells, *map(escaped_text, texts))
    return table


def rule_panel(row: Json) -> Panel:
    origin, predicate = row["provenance"], row["predicate"]
    lines = [row["text"], f"tags: {', '.join(row['tags']) or 'none'}"]
    if predicate:
        lines.append(f"measurement: {_test(predicate)}, weight {predicate['weight']:g}")
    lines.append(f"{origin['kind']} by {origin['backend']}, from case {origin['case_id'] or '-'}")
    lines += [f"{change['state']}: {change['reason']}" for change in row["history"]]
    return Panel(escaped_text("\n".join(lines)), title=escaped_text(row["id"]), title_align="left")


def _test(predicate: Json | None) -> str:
    """The measurement that a rule tests; a rule without one is only for backends that read."""
    return f"{predicate['metric']} {predicate['comparison']} {predicate['threshold']:g}" if predicate else "-"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
