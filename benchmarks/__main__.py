"""Speed against peers: `python -m benchmarks [NAME ...] [--json] [--page FILE]`.

Each benchmark runs in a process of its own, one after another. A missed goal, or a benchmark that fails, ends in exit
code 1. With `--page` the results are also written as Markdown; docs/results/performance.md is made so. Milliseconds
hold for an idle machine; ratios to a peer of the same run less so.

    pip install -e ".[bench]"
    python -m benchmarks rendering evidence
    python -m benchmarks --page docs/results/performance.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.performance.figure import Figure, peak_mib
from benchmarks.performance.page import Machine, markdown

ROOT = Path(__file__).parents[1]
BENCHMARKS = {
    "rendering": "pictures of bodies by the rasteriser, pyrender and Embree",
    "evidence": "the measurement tools, self-contact against libigl",
    "sampling": "1 to 1,000 hypotheses, against a denoiser of ScoreHypo's shape",
    "critiques": "the graph's own cost, groups per second",
    "retrieval": "the memories, against numpy and against embedding at every call",
    "alignment_step": "a step of alignment, against straightforward ones",
    "predict": "photographs and videos to files",
    "startup": "the help, the first score, the unit suite",
}


@dataclass(frozen=True)
class Result:
    """What one benchmark gave: figures, or why there are none."""

    figures: tuple[Figure, ...] = ()
    peak_mib: float | None = None
    failure: str | None = None

    @property
    def is_good(self) -> bool:
        return self.failure is None and all(figure.is_met is not False for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        return {
            "figures": [figure.to_json() for figure in self.figures],
            "peak_mib": self.peak_mib,
            "failure": self.failure,
        }


def run(name: str) -> Result:
    """One benchmark in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", name, "--here"]
    # waiting threads do not spin, as in the command
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Result(failure=lines[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return Result(tuple(map(Figure.from_json, found["figures"])), found["peak_mib"])


def run_here(name: str) -> Result:
    module = importlib.import_module(f"benchmarks.performance.{name}")
    return Result(tuple(module.figures()), peak_mib())


def main(arguments: Sequence[str] | None = None) -> None:
    names = "\n".join(f"  {name:16} {about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the results as Markdown")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if options.here:
        print(json.dumps(run_here(options.names[0]).to_json()))
        return
    results: Mapping[str, Result] = {}
    for name in options.names or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name]} ...", file=sys.stderr, flush=True)
        results = {**results, name: run(name)}
    command = " ".join(["python -m benchmarks", *options.names])
    machine = Machine.here(command)
    page = markdown(machine, {name: result.figures for name, result in results.items()}, {
        name: result.failure for name, result in results.items() if result.failure
    })  # fmt: skip
    if options.page:
        options.page.write_text(page)
    record = {**machine.to_json(), "benchmarks": {name: result.to_json() for name, result in results.items()}}
    print(json.dumps(record) if options.json else page)
    sys.exit(0 if all(result.is_good for result in results.values()) else 1)


if __name__ == "__main__":
    main()
