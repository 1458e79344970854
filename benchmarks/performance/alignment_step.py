"""Time and memory of a training step of alignment, beside three other implementations of the step.

    python -m benchmarks.performance.alignment_step [--images 32] [--group-size 20] [--policy DIR] [--json]

`benchmarks.performance.alignment_step_variants` describes the steps. Each runs in its own process, one after another,
so that none warms a cache or holds memory for the next. Memory is the peak of the process minus what it held after the
imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.performance.figure import Figure, times_faster
from cli.console import stages
from common.progress import Stage

__all__ = ["BenchSettings", "StepCost", "bench_align", "main"]

TIMED_STEPS = {"trainer": 8, "reencode": 6, "reencode_shared": 6, "loop": 1}
REENCODE_NOTE = "the goal is of policies of images; a detection costs little to encode"
GOALS = {"reencode": 3.0, "loop": 10.0}  # how many times faster the trainer should be


@dataclass(frozen=True)
class BenchSettings:
    images: int = 32
    group: int = 20
    times: int = 2
    policy: Path | None = None  # a checkpoint; None: the shipped one


@dataclass(frozen=True)
class StepCost:
    step: str
    seconds: tuple[float, ...]  # of each timed step
    cpu_seconds: tuple[float, ...]  # of the same steps, summed over CPUs; depends less on other processes
    peak_mb: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def median_cpu_s(self) -> float:
        return statistics.median(self.cpu_seconds)


def bench_align(settings: BenchSettings, stage: Stage) -> dict[str, StepCost]:
    """The cost of every step by its name. Raises ValueError if the process of a step fails."""
    tick = stage(f"steps of {settings.images} groups", len(TIMED_STEPS))
    costs = {}
    for done, (step, count) in enumerate(TIMED_STEPS.items(), start=1):
        costs[step] = _run(step, settings, count)
        tick(done)
    return costs


def to_json(costs: dict[str, StepCost], settings: BenchSettings) -> dict[str, Any]:
    """Every timed second, and how many times faster the trainer is than each other step."""
    sizes = {**asdict(settings), "policy": settings.policy and settings.policy.name}
    ours, others = costs["trainer"], {name: cost for name, cost in costs.items() if name != "trainer"}
    return {
        "settings": sizes,
        "steps": {
            name: {**asdict(cost), "median_s": cost.median_s, "median_cpu_s": cost.median_cpu_s}
            for name, cost in costs.items()
        },
        "times_faster": {name: cost.median_s / ours.median_s for name, cost in others.items()},
        "times_less_cpu": {name: cost.median_cpu_s / ours.median_cpu_s for name, cost in others.items()},
        "goals": GOALS,
    }


def _run(step: str, settings: BenchSettings, count: int) -> StepCost:
    sizes = (settings.images, settings.group, settings.times, count)
    policy = [] if settings.policy is None else [settings.policy]
    command = [
        sys.executable,
        "-m",
        "benchmarks.performance.alignment_step_variants",
        step,
        *map(str, (*sizes, *policy)),
    ]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"no output, exit code {run.returncode}"]
        raise ValueError(f"the step {step!r} failed: {lines[-1]}")
    result = json.loads(run.stdout)
    return StepCost(step, tuple(result["seconds"]), tuple(result["cpu_seconds"]), result["peak_mb"])


def _table(costs: dict[str, StepCost], ratios: dict[str, Any]) -> Table:
    table = Table(
        "step", "ms, median", "fastest, slowest", "against ours", "goal", "CPU ms", "against ours", "peak memory, MB"
    )  # fmt: skip
    for name, cost in costs.items():
        extremes = f"{1e3 * min(cost.seconds):.0f}, {1e3 * max(cost.seconds):.0f}"
        faster, goal, less = (
            f"{ratios[kind][name]:.1f} x" if name in ratios[kind] else ""
            for kind in ("times_faster", "goals", "times_less_cpu")
        )
        times = (f"{1e3 * cost.median_s:.0f}", extremes, faster, goal, f"{1e3 * cost.median_cpu_s:.0f}", less)
        table.add_row(name, *times, f"{cost.peak_mb:.0f}")
    return table


def figures() -> list[Figure]:
    costs = bench_align(BenchSettings(), lambda title, total: lambda done, note="": None)
    ours = costs["trainer"]
    return [
        figure
        for name, cost in costs.items()
        if name != "trainer"
        for figure in (
            Figure("alignment step of 32 groups of 20", 1e3 * ours.median_s, "ms", name, 1e3 * cost.median_s,
                   times_faster(GOALS[name]) if name in GOALS else None,
                   REENCODE_NOTE if name == "reencode" else ""),
            Figure("its peak memory", ours.peak_mb, "MB", name, cost.peak_mb),
        )
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="images per step, each with its group")
    parser.add_argument("--group-size", type=int, default=20, help="hypotheses per image")
    parser.add_argument("--timesteps", type=int, default=2, help="diffusion times per hypothesis and step")
    parser.add_argument("--policy", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    settings = BenchSettings(options.images, options.group_size, options.timesteps, options.policy)
    try:
        with stages() as stage:
            costs = bench_align(settings, stage)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    result = to_json(costs, settings)
    if options.json:
        print(json.dumps(result))
        return
    Console(width=120).print(_table(costs, result))
    print("milliseconds hold for an idle machine; CPU time is nearly the same on a busy one")


if __name__ == "__main__":
    main()
