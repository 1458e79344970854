"""SQLite crashes if a connection is closed while another thread runs a query on it, as when a command is stopped."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable


def assert_close_waits(
    connection: sqlite3.Connection, query: Callable[[], object], close: Callable[[], object]
) -> None:
    """`query` runs a statement on the connection; `close`, called in the middle of it, returns after it has ended."""
    begun, proceed, answers = threading.Event(), threading.Event(), []

    def pause(statement: str) -> None:
        begun.set()
        proceed.wait()

    connection.set_trace_callback(pause)
    asker = threading.Thread(target=lambda: answers.append(query()), daemon=True)
    asker.start()
    assert begun.wait(timeout=60)
    closer = threading.Thread(target=close, daemon=True)
    try:
        closer.start()
        closer.join(timeout=0.05)
        assert closer.is_alive()
    finally:
        proceed.set()
    asker.join(timeout=60)
    closer.join(timeout=60)
    assert len(answers) == 1
