"""`meshcritic data`: real data sets, made ready once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from eval.commands.console import say
from eval.commands.options import Json

__all__ = ["data"]

data = typer.Typer(no_args_is_help=True, help="Real data sets, made ready once (docs/datasets.md).")


@data.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="human36m, 3dpw, 3dpw-coco, humandata, hmr2, spin, bedlam, emdb or coco.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the data set lies, as its own page unpacks it.")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared set; must not exist or be empty.")],
    split: Annotated[str, typer.Option(help="A split's name, or an npz file's without its ending.")],
    every: Annotated[int, typer.Option(min=1, help="Take every so-manieth person, from the first.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many people at most.")] = None,
    as_json: Json = False,
) -> None:
    """Read a data set in its published layout, check it, and write samples and annotations apart.

    Example: `meshcritic data prepare coco data/coco --split val2017 --out data/prepared/coco-val`
    """
    from hmr.datasets.annotated_set import prepare as run
    from hmr.datasets.sources import source_of

    chosen = source_of(source, split)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    stderr = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(f"people of {source} {split}", total=None)
        run(chosen, folder, split, out, every, limit, lambda done: bar.update(task, completed=done))
    summary = json.loads((out / "set.json").read_text())
    if as_json:
        print(json.dumps(summary))
        return
    say(f"{summary['count']} people in {out} (content {summary['digest']}); {summary['follows']}")
