"""Runs jobs in forked children and kills them: the libraries, seconds of imports, are loaded by one process only.

    python -m tests.faults.fork_server      reads a job per line from stdin and writes how it ended to stdout, in JSON

Each child is a process of its own with the job's files, sockets and locks, and gets real signals. It counts its
changes: files opened for writing, renamed or removed, folders made, and statements that write to SQLite. A signal comes
at a change, before it is made, or after some time, and then also inside a library that writes by itself. The time of a
signal other than SIGKILL counts from the moment at which the job handles it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT")

Json = dict[str, Any]


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(job: Json) -> Json:
    """How a job ended: `status` as of subprocess, `changes`, `seconds`, and `seconds_to_end` after a signal."""
    assert threading.active_count() == 1, "a process with threads must not be forked"
    report = Path(job["log"]).with_suffix(".report")
    report.unlink(missing_ok=True)
    started, (handled, handles) = time.monotonic(), os.pipe()
    if (child := os.fork()) == 0:
        _tell_when_handled(handles)
        _become(job, report)
    os.close(handles)
    sent = _signal_after(job, child, handled) if job.get("after_s") is not None else None
    os.close(handled)
    _, status = os.waitpid(child, 0)
    ended = time.monotonic()
    told = map(json.loads, report.read_text().splitlines()) if report.exists() else ()
    found = {key: value for item in told for key, value in item.items()}
    sent = found.pop("sent", sent)
    for module in found.pop("modules", ()):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    times = {"seconds": ended - started, "seconds_to_end": None if sent is None else ended - sent}
    return {"status": os.waitstatus_to_exitcode(status), **times, **found}


def _signal_after(job: Json, child: int, handled: int) -> float | None:
    """Sends the signal after that time, unless the child has ended; returns when. handled: is readable when the child
    has handlers, or has ended."""
    if job["signal"] != signal.SIGKILL:
        select.select([handled], [], [])
    file = os.pidfd_open(child)
    ended, _, _ = select.select([file], [], [], job["after_s"])
    os.close(file)
    if ended:
        return None
    os.kill(child, job["signal"])
    return time.monotonic()


def _tell_when_handled(pipe: int) -> None:
    """Writes to the pipe when the child has a handler of its own for SIGTERM, the last one that it sets."""
    set_handler = signal.signal

    def told(number: int, handler: Any) -> Any:
        before = set_handler(number, handler)
        if number == signal.SIGTERM:
            os.write(pipe, b"1")
        return before

    signal.signal = told


def _become(job: Json, report: Path) -> None:
    """The child: runs the job and ends the process."""
    code = 1
    try:
        _redirect(job["log"])
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        if job.get("file_bytes") is not None:
            sys.dont_write_bytecode = True  # compiled modules would be cut, and stay so
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], unlimited[1]))
        known, changes = set(sys.modules), _Changes(job, report)
        code = _call(job["target"], job["arguments"])
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)  # the report may be larger
        modules = [name for name in sys.modules if name not in known] if job.get("preload") else []
        _tell(report, changes=changes.made, modules=modules)
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _tell(report: Path, **values: Any) -> None:
    with report.open("a") as file:
        file.write(json.dumps(values) + "\n")


def _redirect(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _call(target: str, arguments: list[Any]) -> int:
    """`target` is MODULE:FUNCTION; an exception is printed as by Python."""
    module, _, name = target.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - the process ends with it
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def command(*words: str) -> None:
    """`meshcritic WORDS`."""
    from cli.app import main as meshcritic

    sys.argv = ["meshcritic", *words]
    meshcritic()


class _Changes:
    """Counts the changes under `folder` of the job, and sends its signal at the one of number `stop_at`."""

    def __init__(self, job: Json, report: Path) -> None:
        self.made, self._process = 0, os.getpid()
        self._job, self._report = job, report
        sys.addaudithook(self._watch)
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(
                lambda text: self._count() if text.lstrip().startswith(WRITES) else None
            )
            return connection

        sqlite3.connect = traced

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_write = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (event in CHANGES or is_write) and str(arguments[0]).startswith(self._job["folder"]):
            self._count()

    def _count(self) -> None:
        self.made += 1
        if self.made == self._job.get("stop_at") and os.getpid() == self._process:
            _tell(self._report, sent=time.monotonic())
            os.kill(self._process, self._job["signal"])


if __name__ == "__main__":
    os.cpu_count = lambda: (
        1
    )  # scenes are drawn by the job itself, not by processes that import everything again
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
