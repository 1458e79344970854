"""`meshcritic pretrain`: a policy from labelled lab scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.console import say, stages
from cli.options import Out, a_folder

__all__ = ["pretrain"]


def pretrain(
    config: Annotated[Path, typer.Option(help="One experiment.")] = Path("configs/pretrain_tiny.yaml"),
    start_from: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint folder to go on from; default: from scratch.")
    ] = None,
    out: Out = Path("runs/pretrain"),
    cache: Annotated[
        Path, typer.Option(callback=a_folder("--cache"), help="Where training crops are kept.")
    ] = Path("runs/cache"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw scenes.")] = 2,
) -> None:
    """Train a policy on labelled lab scenes; the same command goes on with a run that was killed.

    Example: `meshcritic pretrain --config configs/pretrain_tiny.yaml --out runs/pretrain`
    """
    from accelerate import PartialState

    from eval.report.curves import write_curves
    from hmr.pretraining.training import pretrain as run
    from hmr.pretraining.training import read_config

    settings = read_config(config, **({"start_from": str(start_from)} if start_from else {}))
    with stages() as stage:
        ticks: dict[str, Callable[[int], None]] = {}

        def progress(title: str, done: int, total: int) -> None:
            key = f"{title} ({total})"
            if key not in ticks:
                ticks[key] = stage(key, total)
            ticks[key](done)

        run(settings, out, cache, workers, progress)
    if PartialState().is_main_process:  # of an `accelerate launch`
        say(f"the policy lies in {out}, its learning curves in {write_curves(out)}")
    PartialState().destroy_process_group()
