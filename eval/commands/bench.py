"""`meshcritic bench`: speed and memory, side by side with how else it is done."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from eval.commands.console import console, say, stages
from eval.commands.options import Json, PolicyDir

__all__ = ["bench"]

bench = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Speed and memory, side by side with how else it is done.",
)


@bench.callback()
def _group() -> None:
    """Keeps `align` a subcommand while it is the only one."""


@bench.command()
def align(
    images: Annotated[int, typer.Option(min=1, help="Images a step, each with its group.")] = 32,
    group_size: Annotated[int, typer.Option(min=2, help="Hypotheses an image.")] = 20,
    timesteps: Annotated[int, typer.Option(min=1, help="Diffusion times a hypothesis and step.")] = 2,
    policy: PolicyDir = None,
    as_json: Json = False,
) -> None:
    """A training step of alignment beside one that re-encodes the images and holds a second model, and beside a loop
    over hypotheses.

    Example: `meshcritic bench align --images 32 --group-size 20`
    """
    from eval.bench_align import BenchSettings, bench_align, to_json

    settings = BenchSettings(images, group_size, timesteps, policy)
    with stages() as stage:
        costs = bench_align(settings, stage)
    told = to_json(costs, settings)
    if as_json:
        print(json.dumps(told))
        return
    from rich.table import Table

    table = Table("step", "ms, median", "fastest, slowest", "against ours", "goal", "peak memory, MB")
    for name, cost in costs.items():
        faster, goal = told["times_faster"].get(name), told["goals"].get(name)
        spread = f"{1e3 * min(cost.seconds):.0f}, {1e3 * max(cost.seconds):.0f}"
        ratio, wanted = (f"{value:.1f} x" if value else "" for value in (faster, goal))
        table.add_row(name, f"{1e3 * cost.median_s:.0f}", spread, ratio, wanted, f"{cost.peak_mb:.0f}")
    console().print(table)
    say("what each step does: eval/align_steps.py; figures hold for an idle machine alone")
