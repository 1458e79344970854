"""A measured figure beside that of a peer in the same process, and the helpers that measure.

A benchmark of this package is a module with a function `figures() -> list[Figure]`; `python -m benchmarks` runs each in
a process of its own and compares the figures with their goals.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Figure", "Goal", "at_least", "at_most", "median_ms", "peak_mib", "times_faster"]


@dataclass(frozen=True)
class Goal:
    """of: the figure itself, or how many times less (time, memory) it is than the peer's."""

    of: Literal["value", "ratio"]
    bound: Literal["at most", "at least"]
    value: float

    def is_met(self, measured: float) -> bool:
        return measured <= self.value if self.bound == "at most" else measured >= self.value


def at_most(value: float) -> Goal:
    return Goal("value", "at most", value)


def at_least(value: float) -> Goal:
    return Goal("value", "at least", value)


def times_faster(value: float) -> Goal:
    """The peer's figure is at least `value` times ours."""
    return Goal("ratio", "at least", value)


@dataclass(frozen=True)
class Figure:
    """peer: what does the same by other means, and its figure in the same unit. note: what the figure depends on."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The peer's figure relative to ours."""
        return None if self.peer_value is None else self.peer_value / self.value

    @property
    def is_met(self) -> bool | None:
        """None without a goal."""
        if self.goal is None:
            return None
        measured = self.value if self.goal.of == "value" else self.ratio
        return measured is not None and self.goal.is_met(measured)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "is_met": self.is_met}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Figure:
        known = {name: record[name] for name in ("name", "value", "unit", "peer", "peer_value", "note")}
        return Figure(**known, goal=None if record["goal"] is None else Goal(**record["goal"]))


def median_ms(run: Callable[[], object], repeats: int = 5) -> float:
    """Milliseconds of wall time, after one run that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def peak_mib() -> float:
    """The peak memory of this process since its start. `ru_maxrss` would include the parent's at the fork.

    Raises OSError where there is no /proc (systems other than Linux).
    """
    if sys.platform != "linux":
        raise OSError("the peak memory of a process is read from /proc, which only Linux has")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
