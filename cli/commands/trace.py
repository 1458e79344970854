"""`meshcritic trace`: shows the critiques of a run, node by node, on the terminal or as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.console import console, print_json, print_message
from cli.options import Json, file_to_write
from common.redaction import first_line

__all__ = ["trace"]

LAST_CASES = 20  # on a page


def trace(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its trace.jsonl.")],
    case: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Id of an image, as in the trace. Default: the last case of the run; with --html, the last cases.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=file_to_write("--html"),
            help="Write one HTML page instead: everything that is known of each critique, in one file that loads "
            "nothing from elsewhere.",
        ),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=1, help="Maximum number of critiques on the page, the last ones of the run.")
    ] = LAST_CASES,
    as_json: Json = False,
) -> None:
    """Show how the agent scored one image: evidence, rules, scores, revisions and requests, node by node.

    Example: `meshcritic trace runs/demo --html trace.html`
    """
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html writes a page, whose name ends in .html, not {html}")
    with _damage_named(run):
        if html is None:
            _print_case(run, case, as_json)
        else:
            _write_page(run, case, html, cases, as_json)


@contextmanager
def _damage_named(run: Path) -> Iterator[None]:
    """A trace is untrusted: its values may have other types than the program writes."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"{run}: the trace has a record that cannot be shown ({first_line(error)})"
        ) from error


def _print_case(run: Path, case: str | None, as_json: bool) -> None:
    from agent.tracing.reading import read_trace
    from cli.trace_view import case_json, show_case

    critique = read_trace(run, case).critiques[-1]
    if as_json:
        print_json(case_json(critique))
        return
    for block in show_case(critique):
        console().print(block)


def _write_page(run: Path, case: str | None, html: Path, cases: int, as_json: bool) -> None:
    from agent.tracing.reading import read_trace
    from eval.report.trace.page import title_of, write_trace_page

    read = read_trace(run, case, cases)
    html.parent.mkdir(parents=True, exist_ok=True)
    write_trace_page(html, title_of(run), read, run if run.is_dir() else run.parent)
    if as_json:
        print_json({"page": str(html), "critiques": len(read.critiques), "found": read.found})
        return
    print_message(f"{len(read.critiques)} of {read.found} critiques: {html}")
