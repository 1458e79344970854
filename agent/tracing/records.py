"""One JSONL record a node: which case, what went in (by hash), what came out, how long it took.

The state holds JSON and hashes only, so a record of a node's update is complete and still small: rules with
their UCB terms, prototypes with similarities, raw replies, verdicts, revisions. No image, no key and no
request header passes through the state; a server's words do, and so every line is redacted before it is written.

Once a case is over its records also go to the exporters that the environment switches on (`agent/tracing/exporters.py`), from a
thread of their own. The file is the record: an exporter that fails is said once and left out from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

from agent.tracing.exporters import Exporter, switched_on, unwatched
from agent.tracing.redaction import reason_of, redactor, writable
from agent.tracing.span_tree import Span, case_span
from common.jsonl import open_for_append

__all__ = ["Trace", "traced"]

# The records of the innermost case that is open here; nodes run in a copy of the context they were invoked from.
_open_case: ContextVar[list[dict[str, Any]] | None] = ContextVar("open_case", default=None)


class Trace:
    """Appends records to a file, one flushed line each; without a path it keeps nothing.

    Lines of one process never interleave (a lock), and a line is written with one call, so that a killed run
    leaves at most its last line cut short; whoever goes on with the file cuts that one off. `exporters` default to
    those switched on, for a trace that is kept; raises ValueError where one of them cannot be had.
    """

    def __init__(
        self, path: Path | None = None, run_id: str = "", exporters: Sequence[Exporter] | None = None
    ) -> None:
        self.run_id = run_id
        self._lock = threading.Lock()
        self._redacted = redactor(os.environ)
        if exporters is None:
            exporters = switched_on(os.environ) if path is not None else ()
        self._outbox = _Outbox(exporters) if exporters else None
        self._file: TextIO | None = None
        if path is not None:
            self._file = open_for_append(path)

    @property
    def kept(self) -> bool:
        """Whether a record would go anywhere."""
        return self._file is not None or self._outbox is not None

    def write(self, record: Mapping[str, Any]) -> None:
        line = writable(self._redacted(json.dumps({"run": self.run_id, **record}, ensure_ascii=False)))
        if (records := _open_case.get()) is not None:
            records.append(json.loads(line))
        if self._file is not None:
            with self._lock:
                self._file.write(line + "\n")
                self._file.flush()

    @contextmanager
    def case(self) -> Iterator[None]:
        """One graph's run: what is written meanwhile is one tree for the exporters. LangChain's own tracing is off."""
        records: list[dict[str, Any]] = []
        token = _open_case.set(records if self._outbox else None)
        error = ""
        try:
            with unwatched():
                yield
        except Exception as raised:
            error = reason_of(raised)
            raise
        finally:
            _open_case.reset(token)
            if self._outbox and records:
                self._outbox.send(case_span(records, error))

    def close(self) -> None:
        """Writes and sends what is under way."""
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Outbox:
    """Sends cases in order, one at a time, while the critique goes on."""

    def __init__(self, exporters: Sequence[Exporter]) -> None:
        self._working = list(exporters)
        self._all = tuple(exporters)
        self._thread = ThreadPoolExecutor(1, "trace")

    def send(self, case: Span) -> None:
        self._thread.submit(self._export, case)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        for exporter in self._all:
            exporter.close()

    def _export(self, case: Span) -> None:
        for exporter in tuple(self._working):
            # Somebody else's service: whatever it raises costs its view of the run, never the run.
            try:
                exporter.export(case)
            except Exception as error:  # noqa: BLE001
                self._working.remove(exporter)
                logging.getLogger(__name__).warning(
                    "%s gets no more of this trace: %s", exporter.name, reason_of(error)
                )


def content_hash(value: Any) -> str:
    """The first 12 hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def traced(node: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same node, leaving one record behind each time it runs."""

    @wraps(node)
    def run(state: Mapping[str, Any], runtime: Any) -> dict[str, Any]:
        started, start = time.time(), time.perf_counter()
        update = node(state, runtime)
        ms = (time.perf_counter() - start) * 1e3
        trace: Trace = runtime.context.resources.trace
        if trace.kept:  # hashing a state takes longer than some nodes
            trace.write(
                {
                    "trace": state["trace_id"],
                    "case": state["case_id"],
                    "node": node.__name__,
                    "started": round(started, 3),
                    "inputs": {key: content_hash(value) for key, value in state.items()},
                    "outputs": update,
                    "ms": round(ms, 3),
                }
            )
        return update

    return run
