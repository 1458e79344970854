"""Writes a trace: one JSONL record per node, with the case, hashes of the inputs, the outputs, and the duration.

The state holds JSON and hashes only, so the record of a node's update is complete but small: rules with their UCB
terms, prototypes with similarities, raw replies, verdicts, revisions. It holds no images, keys or request headers, but
it may hold a server's messages; so every line is redacted before it is written. A trace of few critiques can keep the
parts of their questions in a folder beside it.

After each case its records are sent, in a separate thread, to the exporters enabled by the environment
(`agent/tracing/exporters.py`). An exporter that fails is logged once and not used again; the file is not affected.
"""

from __future__ import annotations

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
from typing import Any, TextIO

from agent.tracing.exporters import Exporter, enabled_exporters, langchain_tracing_disabled
from agent.tracing.parts import PartStore, parts_kept_in
from agent.tracing.span_tree import Span, case_span
from common.redaction import reason_of, redactor, writable
from common.stopping import is_stopped
from common.storage.files import PathLike
from common.storage.fingerprint import json_digest
from common.storage.jsonl import open_for_append, refuse_other_file

__all__ = ["Trace", "traced"]

# The records of the innermost open case. Nodes run in a copy of the context in which the graph was invoked.
_open_case: ContextVar[list[dict[str, Any]] | None] = ContextVar("open_case", default=None)


class Trace:
    """Appends records to a file, one flushed line each; without a path nothing is written.

    A lock keeps lines of one process apart, and each line is written in one call: a killed run leaves at most its last
    line incomplete, which the next one removes.

    exporters: None for those enabled by the environment; they are used only with a path.
    parts: the folder in which every question is kept part by part (`agent.tracing.parts`); None: by hash only.

    Raises ValueError for an exporter that is not available.
    """

    def __init__(
        self,
        path: PathLike | None = None,
        run_id: str = "",
        exporters: Sequence[Exporter] | None = None,
        parts: PathLike | None = None,
    ) -> None:
        if path is not None:
            refuse_other_file(path, b'{"run": ')
        self.run_id = run_id
        self._lock = threading.Lock()
        self._redact = redactor(os.environ)
        self._parts = None if parts is None else PartStore(parts, self._redact)
        if exporters is None:
            exporters = enabled_exporters(os.environ) if path is not None else ()
        self._exports = _ExportQueue(exporters) if exporters else None
        self._file: TextIO | None = None
        if path is not None:
            self._file = open_for_append(path)

    @property
    def enabled(self) -> bool:
        """Whether records are written or exported."""
        return self._file is not None or self._exports is not None

    def write(self, record: Mapping[str, Any]) -> None:
        line = writable(self._redact(json.dumps({"run": self.run_id, **record}, ensure_ascii=False)))
        if (records := _open_case.get()) is not None:
            records.append(json.loads(line))
        if self._file is not None:
            with self._lock:
                self._file.write(line + "\n")
                self._file.flush()

    @contextmanager
    def case(self) -> Iterator[None]:
        """One run of a graph: the records written in it are exported as one tree. LangChain's own tracing is off."""
        records: list[dict[str, Any]] = []
        token = _open_case.set(records if self._exports else None)
        error = ""
        try:
            with langchain_tracing_disabled(), parts_kept_in(self._parts):
                yield
        except BaseException as raised:  # an interrupted case is no success either
            error = reason_of(raised)
            raise
        finally:
            _open_case.reset(token)
            if self._exports and records:
                self._exports.send(case_span(records, error))

    def close(self) -> None:
        """Waits for pending exports, unless the command is being stopped, and closes the file."""
        if self._exports is not None:
            self._exports.close()
            self._exports = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ExportQueue:
    """Exports cases in order, one at a time, in a separate thread."""

    def __init__(self, exporters: Sequence[Exporter]) -> None:
        self._active = list(exporters)
        self._all = tuple(exporters)
        self._thread = ThreadPoolExecutor(1, "trace")

    def send(self, case: Span) -> None:
        self._thread.submit(self._export, case)

    def close(self) -> None:
        self._thread.shutdown(wait=not is_stopped(), cancel_futures=is_stopped())
        for exporter in self._all:
            with self._ended_by_errors(exporter):
                exporter.close()

    def _export(self, case: Span) -> None:
        for exporter in tuple(self._active):
            with self._ended_by_errors(exporter):
                exporter.export(case)

    @contextmanager
    def _ended_by_errors(self, exporter: Exporter) -> Iterator[None]:
        """An external service: any exception ends the export to it, not the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._active = [other for other in self._active if other is not exporter]
            logging.getLogger(__name__).warning(
                "the export to %s stopped: %s", exporter.name, reason_of(error)
            )


def traced(node: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same node, which writes one record per run."""

    @wraps(node)
    def run(state: Mapping[str, Any], runtime: Any) -> dict[str, Any]:
        started, start = time.time(), time.perf_counter()
        update = node(state, runtime)
        ms = (time.perf_counter() - start) * 1e3
        trace: Trace = runtime.context.resources.trace
        if trace.enabled:  # hashing a state takes longer than some nodes
            trace.write(
                {
                    "trace": state["trace_id"],
                    "case": state["case_id"],
                    "node": node.__name__,
                    "started": round(started, 3),
                    "inputs": {key: json_digest(value, length=12) for key, value in state.items()},
                    "outputs": update,
                    "ms": round(ms, 3),
                }
            )
        return update

    return run
