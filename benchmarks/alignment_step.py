"""Time and peak memory of one training step of alignment, compared with `benchmarks.alignment_step_variants`.

Each variant runs in a process of its own, one after the other, so that none warms a cache or holds memory for the next.
Memory is the peak of the process beyond what it had imported before the policy was loaded.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.console import stages
from common.progress import Stage

__all__ = ["BenchSettings", "StepCost", "bench_align"]

TIMED_STEPS = {"trainer": 8, "reencode": 6, "reencode_shared": 6, "loop": 1}
GOALS = {"reencode": 3.0, "loop": 10.0}  # how many times faster the trainer is to be


@dataclass(frozen=True)
class BenchSettings:
    images: int = 32
    group: int = 20
    times: int = 2
    policy: Path | None = None  # a checkpoint; the shipped one when None


@dataclass(frozen=True)
class StepCost:
    step: str
    seconds: tuple[float, ...]  # of each step that was timed
    cpu_seconds: tuple[
        float, ...
    ]  # of the same steps, all CPUs together: less touched by who else is at work
    peak_mb: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def median_cpu_s(self) -> float:
        return statistics.median(self.cpu_seconds)


def bench_align(settings: BenchSettings, stage: Stage) -> dict[str, StepCost]:
    """The cost of every step, by its name.

    Raises ValueError where a step's process fails, with what it said last.
    """
    tick = stage(f"steps of {settings.images} groups", len(TIMED_STEPS))
    costs = {}
    for done, (step, count) in enumerate(TIMED_STEPS.items(), start=1):
        costs[step] = _run(step, settings, count)
        tick(done)
    return costs


def to_json(costs: dict[str, StepCost], settings: BenchSettings) -> dict[str, Any]:
    """For machines: every timed second, and how many times faster the trainer was than each rival."""
    sizes = {**asdict(settings), "policy": settings.policy and settings.policy.name}
    ours, rivals = costs["trainer"], {name: cost for name, cost in costs.items() if name != "trainer"}
    return {
        "settings": sizes,
        "steps": {
            name: {**asdict(cost), "median_s": cost.median_s, "median_cpu_s": cost.median_cpu_s}
            for name, cost in costs.items()
        },
        "times_faster": {name: cost.median_s / ours.median_s for name, cost in rivals.items()},
        "times_less_cpu": {name: cost.median_cpu_s / ours.median_cpu_s for name, cost in rivals.items()},
        "goals": GOALS,
    }


def _run(step: str, settings: BenchSettings, count: int) -> StepCost:
    sizes = (settings.images, settings.group, settings.times, count)
    policy = [] if settings.policy is None else [settings.policy]
    words = [sys.executable, "-m", "benchmarks.alignment_step_variants", step, *map(str, (*sizes, *policy))]
    run = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if run.returncode:
        said = run.stderr.strip().splitlines() or [f"it said nothing and ended with code {run.returncode}"]
        raise ValueError(f"the step {step!r} failed: {said[-1]}")
    told = json.loads(run.stdout)
    return StepCost(step, tuple(told["seconds"]), tuple(told["cpu_seconds"]), told["peak_mb"])


if __name__ == "__main__":
    defaults = BenchSettings()
    with stages() as stage:
        costs = bench_align(defaults, stage)
    print(json.dumps(to_json(costs, defaults), indent=2))
