"""Python in other processes: modules under `accelerate launch`, as several on CPUs, and programs that get signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCHER = (
    "-m accelerate.commands.launch --multi_gpu --num_processes {} --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0"
)


def launch_module(module: str, words: Iterable[object], processes: int = 2) -> str:
    """What they say on stderr. `--multi_gpu` is accelerate's word for several processes; `use_cpu` makes them CPUs that
    talk over gloo."""
    launcher = LAUNCHER.format(processes).split() if processes > 1 else []
    run = subprocess.run(
        [sys.executable, *launcher, "-m", module, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def start_python(*words: object, stdin: int | None = None) -> subprocess.Popen[str]:
    """A Python process that heeds SIGINT, even if the tests run in the background of a shell, which ignores it.

    stdin: as of `subprocess.Popen`."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
