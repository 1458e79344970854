"""`meshcritic trace`: one case, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.console import console

__all__ = ["trace"]


def trace(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its trace.jsonl.")],
    case: Annotated[str | None, typer.Option(help="An image's id; default: the last case.")] = None,
) -> None:
    """One case's reasoning, node by node.

    Example: `meshcritic trace runs/demo --case 1f0c9a7be2d44c55`
    """
    from cli.trace_view import read_case, show_case

    for block in show_case(read_case(run, case)):
        console().print(block)
