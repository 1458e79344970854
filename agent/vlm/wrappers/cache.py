"""Caches answers in an SQLite file, so that a second run sends only the questions without an answer.

The key is `question_key`, so answers are not shared between models or settings. Only answers that fit their schema are
stored (`ask` calls `keep`), under the original question, so a repaired answer costs no second repair. Failures are not
stored. Left out: expiry; delete the file to clear the cache.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.vlm.protocol import Part, Reply, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper, question_key
from common.storage.files import PathLike
from common.storage.sqlite_files import check_tables

__all__ = ["Cached", "ReplyCache"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    backend TEXT NOT NULL,
    task TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
_TABLES = {"replies": ("key", "backend", "task", "text")}
_BUSY_S = 30.0  # wait for another process that writes


class ReplyCache:
    """The cache file. Safe for several threads and processes. Raises ValueError for a file with other content."""

    def __init__(self, path: PathLike) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            check_tables(self._connection, _TABLES)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self.close()
            raise ValueError(f"{path} is not a reply cache ({error})") from error

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._lock:
            return self._connection.execute("SELECT count(*) FROM replies").fetchone()[0]

    def close(self) -> None:
        """Waits for a query in progress: SQLite crashes if its connection is closed under one."""
        with self._lock:
            self._connection.close()

    def get(self, key: str) -> str | None:
        """The text stored under a key, or None, as from a damaged file: the question is asked then."""
        try:
            with self._lock:
                row = self._connection.execute("SELECT text FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        return row[0] if row else None

    def put(self, key: str, backend: str, task: str, text: str) -> None:
        """Store a text; it replaces an older one under the same key."""
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", (key, backend, task, text)
            )


class Cached(Wrapper):
    """Answers from the cache if possible, otherwise asks `inner`; with `read_only` nothing is stored."""

    def __init__(self, inner: VLMBackend, cache: ReplyCache, read_only: bool = False) -> None:
        super().__init__(inner)
        self._cache, self._read_only = cache, read_only

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        text = self._cache.get(question_key(self.name, self.revision, parts, schema, seed))
        return self.inner.generate(parts, schema, seed) if text is None else Reply(text, cached=True)

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None:
        if not self._read_only:
            key = question_key(self.name, self.revision, parts, schema, seed)
            self._cache.put(key, f"{self.name} {self.revision}", schema["title"], reply.text)
