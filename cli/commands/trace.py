"""`meshcritic trace`: shows one case of a run, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.console import console

__all__ = ["trace"]


def trace(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its trace.jsonl.")],
    case: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Id of an image, as in the trace. Default: the last case of the run."
        ),
    ] = None,
) -> None:
    """Show how the agent scored one image: evidence, rules, scores, revisions and requests, node by node.

    Example: `meshcritic trace runs/demo --case 1f0c9a7be2d44c55`
    """
    from cli.trace_view import read_case, show_case

    for block in show_case(read_case(run, case)):
        console().print(block)
