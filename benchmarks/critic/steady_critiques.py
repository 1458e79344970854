"""Memory, open files and threads of a process that critiques for a long time.

    python -m benchmarks.critic.steady_critiques [--minutes 20] [--groups 8] [--samples 8] [--json]

The embedded backend critiques the same groups over and over, each time as a new sample, with a trace in a temporary
folder and a memory that is opened once. The process is measured before each critique; what it takes after the first
tenth of the time, at least 20 critiques, is warm-up (compiled code, caches of a fixed size). The goals, of which a
missed one makes the exit code 1: at most 50 MiB more memory afterwards, and no file and no thread more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.default import default_agent, open_default_memory
from agent.tracing.records import Trace
from benchmarks.performance.groups import Group, wild_groups
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy

MAX_GROWTH_MIB = 50.0
WARM_UP, MIN_WARM_UP = 0.1, 20  # share of the time, critiques


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    seconds: float
    memory_mib: float  # resident
    files: int
    threads: int
    python_threads: int


@dataclass(frozen=True)
class Growth:
    """From the end of the warm-up to the most of it later."""

    critiques: int
    seconds: float
    memory_mib: float
    files: int
    threads: int
    first: Footprint
    last: Footprint

    @property
    def is_flat(self) -> bool:
        return self.memory_mib <= MAX_GROWTH_MIB and self.files <= 0 and self.threads <= 0


def footprint(seconds: float) -> Footprint:
    """Of this process, from Linux's /proc."""
    own = Path("/proc/self")
    pages = int((own / "statm").read_text().split()[1])
    return Footprint(
        seconds,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list((own / "fd").iterdir())),
        len(list((own / "task").iterdir())),
        threading.active_count(),
    )


def critique_for(agent: CritiqueAgent, groups: Sequence[Group], seconds: float) -> list[Footprint]:
    """Critiques until the time is over; the footprint before each critique and at the end."""
    start, found = time.monotonic(), []
    for number, (sample, hypotheses) in enumerate(cycle(groups)):
        found.append(footprint(time.monotonic() - start))
        if found[-1].seconds >= seconds and number > MIN_WARM_UP:
            return found
        agent.critique(replace(sample, id=f"{sample.id}-{number}"), hypotheses)
    raise AssertionError("there are no groups")


def growth_of(found: Sequence[Footprint]) -> Growth:
    """Raises ValueError for a run that is not longer than the warm-up."""
    total = found[-1].seconds
    warm = max(MIN_WARM_UP, sum(item.seconds < WARM_UP * total for item in found))
    if warm >= len(found) - 1:
        raise ValueError(f"{len(found) - 1} critiques are no more than the warm-up of {warm}")
    first, later = found[warm], found[warm + 1 :]
    return Growth(
        critiques=len(found) - 1,
        seconds=total,
        memory_mib=max(item.memory_mib for item in later) - first.memory_mib,
        files=max(item.files for item in later) - first.files,
        threads=max(item.threads for item in later) - first.threads,
        first=first,
        last=found[-1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    policy, body = load_policy(), load_body()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_default_memory(Path(folder) / "memory", policy, frozen=False) as memory,
        Trace(Path(folder) / "trace.jsonl") as trace,
    ):
        agent = replace(default_agent(policy, body, memory), trace=trace)
        groups = wild_groups(policy, body, options.groups, options.samples)
        found = growth_of(critique_for(agent, groups, options.minutes * 60))
    _print(found, options.json)
    sys.exit(0 if found.is_flat else 1)


def _print(found: Growth, as_json: bool) -> None:
    if as_json:
        values: dict[str, Any] = {**asdict(found), "is_flat": found.is_flat}
        print(json.dumps(values))
        return
    first, last = found.first, found.last
    print(f"{found.critiques} critiques in {found.seconds / 60:.1f} minutes")
    for name, before, after, more in (
        ("memory (MiB)", first.memory_mib, last.memory_mib, found.memory_mib),
        ("open files", first.files, last.files, found.files),
        ("threads", first.threads, last.threads, found.threads),
    ):
        print(f"{name}: {before:.0f} after the warm-up, {after:.0f} at the end, at most {more:+.0f}")


if __name__ == "__main__":
    main()
