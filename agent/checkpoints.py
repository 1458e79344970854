"""A file with the checkpoints of critiques, from which a killed one goes on."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from common.storage.sqlite_files import Tables, check_tables, tables_of

__all__ = ["open_checkpoints"]


@functools.cache
def _tables() -> Tables:
    """Those of LangGraph's saver."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    with closing(sqlite3.connect(":memory:")) as connection:
        SqliteSaver(connection).setup()
        return tables_of(connection)


@contextmanager
def open_checkpoints(path: Path | None) -> Iterator[BaseCheckpointSaver[Any] | None]:
    """LangGraph's checkpointer for an SQLite file, created if there is none; None without a path.

    Only plain data is read from the file, no objects. Raises ValueError if `langgraph-checkpoint-sqlite` is not
    installed, and for a file that is no such database.
    """
    if path is None:
        yield None
        return
    try:
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ImportError as error:
        raise ValueError("checkpoints need the extra: pip install 'meshcritic[checkpoints]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, check_same_thread=False)
    saver = SqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    try:
        try:
            check_tables(connection, _tables())
            saver.setup()
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: not a file of checkpoints ({error})") from error
        yield saver
    finally:
        with saver.lock:  # SQLite crashes if its connection is closed under a query of another thread
            connection.close()
