"""The one truth of a memory: an SQLite database of rules and their history, cases, prototypes, and what
exploration has done.

Everything else (vector indices, counts) is derived from it. WAL lets a reader look on while exploration
writes; one connection under a lock serves all threads of a process; a transaction that a kill cuts short
leaves nothing behind. `PRAGMA user_version` numbers the schema, and each entry of `_MIGRATIONS` lifts it by
one.

Left out: creation times. Rows keep the order in which they were written, and the same calls write the same
content.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["FrozenMemoryError", "MemoryStore"]

_BASE_ID = "substr(case_id, 1, instr(case_id, '/weigh/') - 1)"
_RECOUNT = f"""instr(case_id, '/weigh/') AND {_BASE_ID} IN (SELECT case_id FROM cases)
    AND case_id NOT IN (SELECT case_id FROM explored)"""
_MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE rules (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        rule_id TEXT NOT NULL UNIQUE,
        text TEXT NOT NULL,
        tags TEXT NOT NULL,
        predicate TEXT,
        provenance TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('quarantined', 'admitted', 'retired')),
        embedding BLOB NOT NULL
    ) STRICT;
    CREATE TABLE cases (case_id TEXT PRIMARY KEY, success INTEGER NOT NULL CHECK (success IN (0, 1))) STRICT;
    CREATE TABLE rule_uses (
        case_id TEXT NOT NULL REFERENCES cases (case_id),
        rule_id TEXT NOT NULL REFERENCES rules (rule_id),
        PRIMARY KEY (rule_id, case_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE prototypes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        prototype_id TEXT NOT NULL UNIQUE,
        case_id TEXT NOT NULL,
        rationale TEXT NOT NULL,
        score REAL NOT NULL,
        tags TEXT NOT NULL,
        evidence TEXT NOT NULL,
        weights TEXT NOT NULL,
        embedding BLOB NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE rule_history (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        rule_id TEXT NOT NULL REFERENCES rules (rule_id),
        state TEXT NOT NULL CHECK (state IN ('quarantined', 'admitted', 'retired')),
        reason TEXT NOT NULL,
        gain REAL,
        held_out TEXT
    ) STRICT;
    CREATE INDEX rule_history_by_rule ON rule_history (rule_id);
    INSERT INTO rule_history (rule_id, state, reason)
        SELECT rule_id, state, 'from a memory that kept no history' FROM rules ORDER BY number;
    CREATE TABLE explored (
        case_id TEXT PRIMARY KEY REFERENCES cases (case_id),
        judged TEXT NOT NULL
    ) STRICT;
    CREATE TABLE steps (step TEXT PRIMARY KEY) STRICT;
    """,
    # A case judged again for rules it had not used was a case of its own, "CASE/weigh/...", and so counted twice.
    f"""
    ALTER TABLE rule_uses ADD COLUMN success INTEGER CHECK (success IN (0, 1));
    UPDATE OR IGNORE rule_uses SET
        success = (SELECT cases.success FROM cases WHERE cases.case_id = rule_uses.case_id),
        case_id = {_BASE_ID}
        WHERE {_RECOUNT};
    DELETE FROM rule_uses WHERE {_RECOUNT};
    DELETE FROM cases WHERE {_RECOUNT};
    """,
)
_BUSY_S = 30.0  # how long a writer waits for another process' transaction


class FrozenMemoryError(ValueError):
    """Something tried to write to a memory that was opened read-only."""


class MemoryStore:
    """A memory database at `path`, created where there is none; ":memory:" keeps it in RAM.

    With `frozen=True` the file must exist and is opened read-only; one of an older schema stays as it is, and is
    read from a copy in RAM. Raises FileNotFoundError if it does not exist, ValueError if it is no memory database or
    was written by a newer version.
    """

    def __init__(self, path: Path | str, frozen: bool = False) -> None:
        self.path = None if str(path) == ":memory:" else Path(path)
        self.frozen = frozen
        # Whatever is derived from the content is guarded by it too: with one lock there is no deadlock.
        self.lock = threading.RLock()
        self._rollbacks = 0
        self._connection = _connect(self.path, frozen)
        try:
            if self.path and not frozen:
                self._connection.execute("PRAGMA journal_mode = WAL")
            self._migrate()
        except sqlite3.DatabaseError as error:
            self.close()
            raise ValueError(f"{path} is not a memory database ({error})") from error
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: commits at the end of the block, rolls back if it raises. An inner one joins the
        outer.

        Raises FrozenMemoryError if the store was opened read-only.
        """
        if self.frozen:
            raise FrozenMemoryError(f"the memory at {self.path} is frozen: it can be read, not written")
        with self._all_or_nothing() as connection:
            yield connection

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self.lock:
            return self._connection.execute(query, values).fetchall()

    def version(self) -> tuple[int, int, int]:
        """Changes whenever the content may have changed, by this connection or by another process."""
        with self.lock:
            return self.read("PRAGMA data_version")[0][0], self._connection.total_changes, self._rollbacks

    def meta(self, key: str) -> str | None:
        rows = self.read("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0]["value"] if rows else None

    def claim(self, key: str, value: str) -> None:
        """Writes a setting that every later writer must share, such as the name of the embedder.

        Raises ValueError, naming both, if another value was claimed before.
        """
        self.check(key, value)
        if self.meta(key) is None:
            with self.transaction() as connection:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def check(self, key: str, value: str) -> None:
        """Raises ValueError, naming both, if a value other than `value` was claimed for `key`."""
        claimed = self.meta(key)
        if claimed not in (None, value):
            raise ValueError(
                f"this memory was written with {key} {claimed!r}, not {value!r}; use that, or a new folder"
            )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:  # a KeyboardInterrupt must not leave half a case either
                self._connection.execute("ROLLBACK")
                self._rollbacks += 1
                raise
            self._connection.execute("COMMIT")

    def _migrate(self) -> None:
        version = self.read("PRAGMA user_version")[0][0]
        if version > len(_MIGRATIONS):
            raise ValueError(f"{self.path} has schema {version}; this version knows up to {len(_MIGRATIONS)}")
        if version == len(_MIGRATIONS):
            return
        if self.frozen:
            if version == 0:
                raise ValueError(f"{self.path} is not a memory database (it has no schema)")
            self._connection = _copy_in_ram(self._connection)
        with self._all_or_nothing() as connection:
            version = self.read("PRAGMA user_version")[0][0]  # another process may have been first
            for script in _MIGRATIONS[version:]:
                for statement in script.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        if self.frozen:
            self._connection.execute("PRAGMA query_only = ON")


def _connect(path: Path | None, frozen: bool) -> sqlite3.Connection:
    if frozen and (path is None or not path.is_file()):
        raise FileNotFoundError(f"there is no memory at {path} to open frozen")
    if path and not frozen:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Even to read, WAL writes a file beside the database; where the folder forbids it, nobody writes at all.
    reading = "mode=ro" if path and os.access(path.parent, os.W_OK) else "immutable=1"
    mode = reading if frozen else "mode=rwc"
    target = f"{path.absolute().as_uri()}?{mode}" if path else ":memory:"
    return _opened(target, uri=path is not None)


def _opened(target: str, uri: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target, uri=uri, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _copy_in_ram(connection: sqlite3.Connection) -> sqlite3.Connection:
    """The same content, in place of the connection that is closed."""
    copy = _opened(":memory:", uri=False)
    connection.backup(copy)
    connection.close()
    return copy
