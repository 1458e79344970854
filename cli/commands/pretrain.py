"""`meshcritic pretrain`: trains a policy on simulated detections, or the encoder of the embedded detector."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.console import print_json, print_message, stages
from cli.options import MODELS, Json, Out, config_file, output_folder
from common.storage.locks import single_run

__all__ = ["pretrain"]

PeoplesBody = Annotated[
    Path | None,
    typer.Option(
        "--body",
        metavar="FILE",
        rich_help_panel=MODELS,
        help="SMPL, SMPL-H or SMPL-X body model, .npz or .pkl, of the simulated and the rendered people; the policy of "
        "--from must have been trained with it. Default: that of the recipe, or else the embedded body model.",
    ),
]


def pretrain(
    config: Annotated[Path, config_file("YAML file of the experiment.")] = Path(
        "configs/pretrain_policy.yaml"
    ),
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Checkpoint with the initial weights. Default: random weights."
        ),
    ] = None,
    body: PeoplesBody = None,
    out: Out = Path("runs/pretrain"),
    encoder: Annotated[
        bool,
        typer.Option("--encoder", help="Train the embedded detector's encoder on rendered scenes instead."),
    ] = False,
    cache: Annotated[
        Path, output_folder("Folder for rendered scenes, which are drawn once.", option="--cache")
    ] = Path("runs/cache"),
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that render scenes.")] = 2,
    as_json: Json = False,
) -> None:
    """Train a policy on simulated detections and on rendered people.

    The same command continues an interrupted run. For several processes use `accelerate launch -m meshcritic pretrain`.

    Example: `meshcritic pretrain --config configs/pretrain_policy.yaml --out runs/pretrain`
    """
    from accelerate import PartialState

    from common.storage.versions import write_run
    from eval.report.curves import write_curves
    from hmr.pretraining.encoder_recipe import read_encoder_recipe
    from hmr.pretraining.encoder_training import train_encoder
    from hmr.pretraining.policy_recipe import read_policy_recipe
    from hmr.pretraining.policy_training import pretrain_policy

    given = {"start_from": start_from, "body": body}
    changes = {name: str(path) for name, path in given.items() if path}
    with single_run(out), scene_progress() as progress:
        if encoder:
            recipe = read_encoder_recipe(config, **changes)
            train_encoder(recipe, out, cache, workers, progress)
        else:
            recipe = read_policy_recipe(config, **changes)
            pretrain_policy(recipe, out, cache, workers, progress)
    if PartialState().is_main_process:  # of `accelerate launch`
        write_run(out, {"encoder": encoder, **asdict(recipe)})
        curves = write_curves(out)
        if as_json:
            print_json({"checkpoint": str(out), "curves": str(curves)})
        else:
            print_message(f"checkpoint: {out}; learning curves: {curves}")
    PartialState().destroy_process_group()


@contextlib.contextmanager
def scene_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each title."""
    with stages() as stage:
        ticks: dict[str, Callable[[int], None]] = {}

        def progress(title: str, done: int, total: int) -> None:
            key = f"{title} ({total})"
            if key not in ticks:
                ticks[key] = stage(key, total)
            ticks[key](done)

        yield progress
