"""The SQLite database of a memory: rules with their history, cases, prototypes, and finished exploration steps.

Everything else (vector indices, counts) is derived from it. In WAL mode other processes can read while exploration
writes. All threads of a process share one connection with a lock, and a killed process leaves no incomplete
transaction. `PRAGMA user_version` is the schema version; each entry of `_MIGRATIONS` increases it by one.

Left out: creation times. Rows keep the order in which they were written, and the same calls write the same content.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from common.storage.files import PathLike, atomic_path
from common.storage.sqlite_files import OtherTables, Tables, check_tables, tables_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["FrozenMemoryError", "MemoryStore", "damage_named"]

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
    # A case judged again with further rules was stored as another case, "CASE/weigh/...", and so counted twice.
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
_BUSY_S = 30.0  # wait for the transaction of another process


class FrozenMemoryError(ValueError):
    """A write to a memory that was opened read-only."""


class MemoryStore:
    """The memory database at `path`, created if it does not exist; ":memory:" keeps it in RAM.

    With `frozen=True` the file must exist and is opened read-only; a file with an older schema stays unchanged and is
    read from a migrated copy in RAM. Raises FileNotFoundError if it does not exist, ValueError if it is not a memory
    database, is damaged or locked, or was written by a newer version. Later calls raise ValueError if it turns out
    to be damaged or locked.
    """

    def __init__(self, path: PathLike, frozen: bool = False) -> None:
        self.path = None if str(path) == ":memory:" else Path(path)
        self.frozen = frozen
        # Also guards everything derived from the content, so there is only one lock and no deadlock.
        self.lock = threading.RLock()
        self._rollbacks = 0
        with self._errors_named():
            self._connection = _connect(self.path, frozen)
        try:
            with self._errors_named():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a query in progress: SQLite crashes if its connection is closed under one."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at the end of the block, rolls back if it raises. An inner transaction is part of the outer one.

        Raises FrozenMemoryError if the store was opened read-only.
        """
        if self.frozen:
            raise FrozenMemoryError(f"the memory at {self.path} is frozen: it can be read, not written")
        with self._errors_named(), self._begin() as connection:
            yield connection

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._errors_named(), self.lock:
            return self._connection.execute(query, values).fetchall()

    def version(self) -> tuple[int, int, int]:
        """Different after every possible change of the content, by this connection or by another process."""
        with self.lock:
            return self.read("PRAGMA data_version")[0][0], self._connection.total_changes, self._rollbacks

    def counts(self) -> dict[str, int]:
        """The number of rules, cases and prototypes."""
        tables = ("rules", "cases", "prototypes")
        columns = ", ".join(f"(SELECT COUNT(*) FROM {table}) AS {table}" for table in tables)
        return dict(self.read(f"SELECT {columns}")[0])

    def meta(self, key: str) -> str | None:
        rows = self.read("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0]["value"] if rows else None

    def set_meta_once(self, key: str, value: str) -> None:
        """Writes a value that all later writers must share, such as the name of the embedder.

        Raises ValueError, with both values, if the key has another value already.
        """
        self.require_meta(key, value)
        if self.meta(key) is None:
            with self.transaction() as connection:
                connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def require_meta(self, key: str, value: str) -> None:
        """Raises ValueError, with both values, if `key` has another value."""
        stored = self.meta(key)
        if stored not in (None, value):
            raise ValueError(
                f"this memory was written with {key} {stored!r}, not {value!r}; use that, or a new folder"
            )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Around SQLite's work: what the file or another process is to blame for is a ValueError with the path."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path or 'the memory'} {_fault(error)}") from error

    def _prepare(self) -> None:
        """Nothing is read or changed before the tables are known to be those of a memory."""
        if self.path is None:
            _make(self._connection)
            return
        check_tables(self._connection, _expected_tables())
        version = self.read("PRAGMA user_version")[0][0]
        if version == 0:
            raise ValueError(f"{self.path} is not a memory database (it has no schema)")
        if not 0 < version <= len(_MIGRATIONS):
            raise ValueError(
                f"{self.path} has schema {version}; this version supports up to {len(_MIGRATIONS)}"
            )
        self._check_integrity()
        if not self.frozen:
            self._connection.execute("PRAGMA journal_mode = WAL")
        if version < len(_MIGRATIONS):
            self._migrate()
        check_tables(self._connection, _expected_tables(), complete=True)

    def _check_integrity(self) -> None:
        """SQLite's own check of every page, index and constraint: a few milliseconds for a usual memory."""
        found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))

    @contextmanager
    def _begin(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            with _turn_of_writer(self.path):
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:  # including KeyboardInterrupt
                self._connection.execute("ROLLBACK")
                self._rollbacks += 1
                raise
            self._connection.execute("COMMIT")

    def _migrate(self) -> None:
        if self.frozen:
            self._connection = _copy_in_ram(self._connection)
        with self._begin() as connection:
            version = self.read("PRAGMA user_version")[0][0]  # another process may have migrated it meanwhile
            _make(connection, version)
        if self.frozen:
            self._connection.execute("PRAGMA query_only = ON")


def _make(connection: sqlite3.Connection, version: int = 0) -> None:
    """The tables of this version in a database of an earlier one; 0 has none."""
    for script in _MIGRATIONS[version:]:
        for statement in script.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


@functools.cache
def _expected_tables() -> Tables:
    with closing(sqlite3.connect(":memory:")) as connection:
        _make(connection)
        return tables_of(connection)


def _create(path: Path) -> None:
    """An empty memory, if there is no file. It is renamed when it is complete, so that an empty file is never one that
    another process is about to fill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn_of_writer(path):
        if not path.exists():
            for left in path.parent.glob(f".{path.name}.*.partial*"):  # by a process that was killed here
                left.unlink()
            with atomic_path(path) as partial, closing(_open(str(partial), uri=False)) as connection:
                connection.execute("BEGIN")
                _make(connection)
                connection.execute("COMMIT")


@contextmanager
def _turn_of_writer(path: Path | None) -> Iterator[None]:
    """A block in which one process at a time waits for SQLite's lock, while the others wait for the folder's.

    SQLite's own waiting knows no turns: a process that has just written is likely to be the next one, and of eight
    busy writers one waited for over half a minute. Without `fcntl`, and on file systems without such locks, only
    SQLite's is used.
    """
    if path is None or fcntl is None:
        yield
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:  # it may be searched, but not read
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # a child that was forked meanwhile holds the file too
        os.close(folder)


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Around the parsing of rows, whose content SQLite does not check."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what} of the memory cannot be used: {error}") from error
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{what} of the memory is damaged; `meshcritic memory recover` copies what is whole into a new folder"
        ) from error


def _fault(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "is locked by another process; try again when that has ended"
    if "not a database" in text or isinstance(error, OtherTables):
        return f"is not a memory database ({text})"
    if isinstance(error, sqlite3.OperationalError):
        return f"cannot be used: {text}"
    return f"is damaged ({text}); `meshcritic memory recover` copies what is whole into a new folder"


def _connect(path: Path | None, frozen: bool) -> sqlite3.Connection:
    if frozen and (path is None or not path.is_file()):
        raise FileNotFoundError(f"there is no memory at {path}; `meshcritic explore` fills one")
    if path and not frozen:
        _create(path)
    if path and not path.is_file():
        raise ValueError(f"{path} is not a memory database (it is no regular file)")
    # WAL writes a file next to the database even to read it; in a read-only folder the database cannot change.
    read_only = "mode=ro" if path and os.access(path.parent, os.W_OK) else "immutable=1"
    if path and frozen and read_only == "immutable=1" and _log_of(path).exists():
        return _copy_with_log(path)
    mode = read_only if frozen else "mode=rw"
    target = f"{path.absolute().as_uri()}?{mode}" if path else ":memory:"
    return _open(target, uri=path is not None)


def _open(target: str, uri: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target, uri=uri, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _log_of(path: Path) -> Path:
    """The write-ahead log, with the transactions that are not in the database file yet."""
    return path.with_name(f"{path.name}-wal")


def _copy_with_log(path: Path) -> sqlite3.Connection:
    """A copy in RAM: SQLite leaves the log out where it cannot write beside it."""
    with TemporaryDirectory() as folder:
        for file in (path, _log_of(path)):
            shutil.copy(file, folder)
        return _copy_in_ram(_open(f"{(Path(folder) / path.name).as_uri()}?mode=rw", uri=True))


def _copy_in_ram(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A copy of the database in RAM; closes the original connection."""
    copy = _open(":memory:", uri=False)
    connection.backup(copy)
    connection.close()
    return copy
