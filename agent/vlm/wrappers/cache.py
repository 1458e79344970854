"""Answers kept in one SQLite file, so that a second run asks only for what is missing.

The key is `question_key`: one model's answer is never served for another's, nor one setting's for another's. Only
answers that fitted their schema are kept (`ask` says which), under the question first asked, so that a repaired one
is not paid for again. Failures are never kept. Left out: expiry; delete the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.vlm.protocol import Part, Reply, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper, question_key

__all__ = ["Cached", "ReplyCache"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    backend TEXT NOT NULL,
    task TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
_BUSY_S = 30.0  # how long a writer waits for another process


class ReplyCache:
    """The file. Safe between threads and between processes; raises ValueError if it is something else."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
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
        self._connection.close()

    def get(self, key: str) -> str | None:
        """The text kept under a key."""
        with self._lock:
            row = self._connection.execute("SELECT text FROM replies WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, backend: str, task: str, text: str) -> None:
        """Keep a text; the newer one replaces the older."""
        with self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", (key, backend, task, text)
            )


class Cached(Wrapper):
    """Answers from the cache what it holds, and asks `inner` for the rest; with `read_only` nothing is added."""

    def __init__(self, inner: VLMBackend, cache: ReplyCache, read_only: bool = False) -> None:
        super().__init__(inner)
        self._cache, self._read_only = cache, read_only

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        kept = self._cache.get(question_key(self.name, self.revision, parts, schema, seed))
        return self.inner.generate(parts, schema, seed) if kept is None else Reply(kept, cached=True)

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None:
        if not self._read_only:
            key = question_key(self.name, self.revision, parts, schema, seed)
            self._cache.put(key, f"{self.name} {self.revision}", schema["title"], reply.text)
