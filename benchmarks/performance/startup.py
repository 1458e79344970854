"""How long a user waits: the help, the first score of a photograph after a cold start, and the unit suite.

Whole commands in processes of their own. The suite runs as `make test` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.performance.figure import Figure, at_most

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests/data/photograph/basketball.jpg"
COMMAND = [sys.executable, "-m", "meshcritic"]


def figures() -> list[Figure]:
    help_s = median(_seconds([*COMMAND, "--help"]) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        score_s = _score_s([*COMMAND, "critique", str(PHOTO), "--samples", "8", "--out", folder])
    suite = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count())]
    suite_s = _seconds(suite, OMP_NUM_THREADS="1")
    return [
        Figure("meshcritic --help", help_s, "s", goal=at_most(0.5)),
        Figure("meshcritic critique PHOTO, to the first score", score_s, "s", goal=at_most(5.0)),
        Figure("unit suite of make test", suite_s, "s", goal=at_most(120.0)),
    ]


def _seconds(command: list[str], **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - start


def _score_s(command: list[str]) -> float:
    """Until the command prints the scores of the first person."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("person 0"):
                seconds = time.perf_counter() - start
                process.terminate()
                return seconds
    raise ValueError(f"{' '.join(command)} printed no score")
