"""`meshcritic pretrain`: trains a policy on labelled lab scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.console import print_message, stages
from cli.options import Out, config_file, output_folder

__all__ = ["pretrain"]


def pretrain(
    config: Annotated[Path, config_file("YAML file of the experiment.")] = Path("configs/pretrain_tiny.yaml"),
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Checkpoint with the initial weights. Default: random weights."
        ),
    ] = None,
    out: Out = Path("runs/pretrain"),
    cache: Annotated[Path, output_folder("Folder for cached training crops.", option="--cache")] = Path(
        "runs/cache"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that render scenes.")] = 2,
) -> None:
    """Train a policy on labelled synthetic lab scenes.

    The same command continues an interrupted run. For several processes use `accelerate launch -m meshcritic pretrain`.

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
    if PartialState().is_main_process:  # of `accelerate launch`
        print_message(f"policy: {out}; learning curves: {write_curves(out)}")
    PartialState().destroy_process_group()
