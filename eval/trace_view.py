"""One case's reasoning as a person would want to read it, from the JSONL trace of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.panel import Panel

__all__ = ["read_case", "show_case"]

TEXT_CHARS = 1200  # of one value; the file holds the rest


def read_case(run: Path, case: str | None = None) -> list[dict[str, Any]]:
    """The records of a case's last critique, in order; without a case, of the run's last one.

    Raises FileNotFoundError without a trace, ValueError for a case that is not in it.
    """
    path = run / "trace.jsonl" if run.is_dir() else run
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no trace here")
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := _parsed(line)) is not None]
    chosen = [record for record in records if case is None or record["case"] == case]
    if not chosen:
        some = ", ".join(sorted({record["case"] for record in records})[:5])
        raise ValueError(f"{path} has no case {case!r}; it has {some or 'none at all'}")
    return [record for record in chosen if record["trace"] == chosen[-1]["trace"]]


def _parsed(line: str) -> dict[str, Any] | None:
    """A killed run may leave its last line cut short; that line is no record."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def show_case(records: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    """One panel a node."""
    for record in records:
        lines = [
            f"[bold]{escape(key)}[/bold]  {escape(_short(value))}" for key, value in record["outputs"].items()
        ]
        title = f"{record['node']}  ({record['ms']:.1f} ms)"
        yield Panel("\n".join(lines) or "nothing new", title=title, title_align="left")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + " ..."
