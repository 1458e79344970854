"""Asks `tests.faults.fork_server` for jobs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.processes import start_python

__all__ = ["End", "ForkServer", "Job"]

COMMAND = "tests.faults.fork_server:command"


@dataclass(frozen=True)
class Job:
    """A function, MODULE:FUNCTION, and its arguments; OUT in these stands for the folder that it writes to."""

    arguments: tuple[object, ...]
    target: str = COMMAND

    def in_folder(self, out: Path) -> Iterator[str]:
        return (str(out) if word == "OUT" else str(word) for word in self.arguments)


@dataclass(frozen=True)
class End:
    """How a job ended. `status` as of subprocess; `changes` if it came to its end."""

    status: int
    seconds: float
    log: str
    changes: int = 0
    seconds_to_end: float | None = None  # after a signal


class ForkServer:
    """A process that runs one job at a time in a forked child."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def run(self, job: Job, out: Path, log: Path | None = None, **options: object) -> End:
        """Runs the job; what it prints goes to `log`, by default beside `out`.

        options: `signal`, with `stop_at` (the number of a change) or `after_s`; `file_bytes`, the largest file that it
            may write; `preload`, for the first run of its kind.
        """
        if self._process is None:
            self._process = start_python("-m", "tests.faults.fork_server", stdin=subprocess.PIPE)
        log = log or out.with_name(f"{out.name}.log")
        if not log.exists():  # the child may be killed before it opens it
            log.touch()
        asked = {
            "target": job.target,
            "arguments": list(job.in_folder(out)),
            "log": str(log),
            "folder": str(out),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asked, **options}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.communicate()[1]  # the server itself has failed
        return End(**json.loads(answer), log=log.read_text(errors="replace"))
