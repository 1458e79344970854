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

    table = Table(
        "step", "ms, median", "fastest, slowest", "against ours", "goal", "CPU ms", "against ours", "peak memory, MB"
    )  # fmt: skip
    for name, cost in costs.items():
        spread = f"{1e3 * min(cost.seconds):.0f}, {1e3 * max(cost.seconds):.0f}"
        faster, goal, less = (
            f"{told[kind][name]:.1f} x" if name in told[kind] else ""
            for kind in ("times_faster", "goals", "times_less_cpu")
        )
        times = (f"{1e3 * cost.median_s:.0f}", spread, faster, goal, f"{1e3 * cost.median_cpu_s:.0f}", less)
        table.add_row(name, *times, f"{cost.peak_mb:.0f}")
    console().print(table)
    say(
        "what each step does: eval/align_steps.py; milliseconds hold for an idle machine, CPU's nearly so on a busy one"
    )
