"""One JSONL record a node: which case, what went in (by hash), what came out, how long it took.

The state holds JSON and hashes only, so a record of a node's update is complete and still small: rules with
their UCB terms, prototypes with similarities, raw replies, verdicts, revisions. No image, no key and no
request header ever passes through the state, so none can land here.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Trace", "traced"]


class Trace:
    """Appends records to a file, one flushed line each; without a path it keeps nothing.

    Lines of one process never interleave (a lock), and a line is written with one call, so that a killed run
    leaves at most its last line cut short.
    """

    def __init__(self, path: Path | None = None, run_id: str = "") -> None:
        self.run_id = run_id
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = json.dumps({"run": self.run_id, **record}, ensure_ascii=False) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def content_hash(value: Any) -> str:
    """The first 12 hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def traced(node: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same node, leaving one record behind each time it runs."""

    @wraps(node)
    def run(state: Mapping[str, Any], runtime: Any) -> dict[str, Any]:
        start = time.perf_counter()
        update = node(state, runtime)
        ms = (time.perf_counter() - start) * 1e3
        runtime.context.desk.trace.write(
            {
                "trace": state["trace_id"],
                "case": state["case_id"],
                "node": node.__name__,
                "inputs": {key: content_hash(value) for key, value in state.items()},
                "outputs": update,
                "ms": round(ms, 3),
            }
        )
        return update

    return run
