"""`meshcritic tables`: the paper's tables on the open benchmark."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cli.console import print_json, print_message, stages
from cli.options import WORKERS, Device, Json, Out

__all__ = ["tables"]


def tables(
    table: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Number of a table, 1 to 4; repeatable. Default: all."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="Full sizes with five seeds, or small ones with one seed.",
        ),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 0. Default: 1 or 5.")
    ] = None,
    device: Device = "cpu",
    out: Out = Path("runs/tables"),
    as_json: Json = False,
) -> None:
    """Run and print the paper's tables on the open benchmark, with the paper's own numbers beside them.

    Table 1: alignment methods between the base and its ceiling. Table 2: critic and loss. Tables 3 and 4: critics, and
    the agent without its parts. Each states which of the paper's orderings hold. The same command continues a killed
    run; Markdown, LaTeX and Parquet are written to OUT.

    Example: `meshcritic tables --quick --table 3 --table 4`
    """
    from eval.study.arms import BASE
    from eval.tables.run import TABLES, run_tables
    from eval.tables.sizes import FULL, QUICK
    from eval.tables.writing import markdown, write_tables
    from hmr.policy.checkpoint import BASES, load_policy

    sizes = FULL if full else QUICK
    if seeds is not None:
        sizes = dataclasses.replace(sizes, seeds=tuple(range(seeds)))
    with stages() as stage:
        found = run_tables(
            load_policy(BASES[BASE], device), table or list(TABLES), sizes, out, stage, WORKERS
        )
    paths = write_tables(found, out)
    if as_json:
        print_json({"tables": [record for item in found for record in item.records()]})
    else:
        print("\n".join(map(markdown, found)))
    print_message(f"written: {', '.join(map(str, paths))}")
