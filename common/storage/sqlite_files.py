"""SQLite files, used only if they hold what they are taken for.

A file may be another program's, and is untrusted: a view or a trigger in place of a table runs SQL of its own, which
may never end or take all memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

__all__ = ["OtherTables", "Tables", "check_tables", "tables_of"]

MAX_VALUE_BYTES = 64 * 2**20  # of one text or blob
Tables = Mapping[str, tuple[str, ...]]  # columns by table


class OtherTables(sqlite3.DatabaseError):
    """The database is another one than was expected."""


def check_tables(connection: sqlite3.Connection, tables: Tables, complete: bool = False) -> None:
    """Bounds the size of values, and raises OtherTables if the database has anything but these tables, with
    these columns, and indices; `complete`: also if it lacks any of them."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    for row in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        kind, name, text = row[0], str(row[1]), str(row[2] or "")
        is_ours = kind == "index" or (kind == "table" and name in tables and text.startswith("CREATE TABLE"))
        if not (is_ours or name.startswith("sqlite_")):
            raise OtherTables(f"it has the {kind} {name[:100]}")
    found = tables_of(connection)
    for name, columns in tables.items():
        held = found.get(name, () if complete else columns)
        if not (set(held) == set(columns) if complete else set(held) <= set(columns)):
            raise OtherTables(f"its table {name} has other columns than {', '.join(columns)}")


def tables_of(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """The columns of every table. Raises OtherTables for a computed one."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    tables = {}
    for (name,) in connection.execute(query).fetchall():
        columns = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
        if any(hidden for _, hidden in columns):
            raise OtherTables(f"its table {name} has computed columns")
        tables[name] = tuple(column for column, _ in columns)
    return tables
