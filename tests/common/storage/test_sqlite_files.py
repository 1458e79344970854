"""Databases of other programs and untrusted ones: refused before a row is read, and left as they are."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.checkpoints import open_checkpoints
from agent.vlm.wrappers.cache import ReplyCache
from memory.folder import open_store
from memory.store import MemoryStore

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
FOREIGN = {
    "another program's": "CREATE TABLE moz_places (url TEXT)",
    "an endless view": f"CREATE VIEW more AS {ENDLESS} SELECT x FROM c",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON {} BEGIN SELECT 1; END",
}


def change(path: Path, *statements: str) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def memory(path: Path) -> None:
    MemoryStore(path).close()


def cache(path: Path) -> None:
    ReplyCache(path).close()


def checkpoints(path: Path) -> None:
    with open_checkpoints(path):
        pass


OPEN = {"rules": memory, "replies": cache, "writes": checkpoints}  # by a table of each


@pytest.mark.parametrize("statement", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("table", OPEN)
def test_a_database_with_anything_more_is_refused_and_unchanged(
    tmp_path: Path, table: str, statement: str
) -> None:
    path = tmp_path / "memory.sqlite"
    OPEN[table](path)
    before = change(path, statement.format(table))
    with pytest.raises(ValueError, match=r"it has the (table moz_places|view more|trigger t)"):
        OPEN[table](path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", OPEN)
@pytest.mark.parametrize("other", OPEN)
def test_a_file_of_one_kind_is_not_used_as_another(tmp_path: Path, table: str, other: str) -> None:
    path = tmp_path / "memory.sqlite"
    OPEN[table](path)
    before = change(path)
    if table == other:
        OPEN[other](path)
        return
    with pytest.raises(ValueError, match="it has the table"):
        OPEN[other](path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ("ALTER TABLE rules RENAME TO old", f"CREATE VIEW rules AS {ENDLESS} SELECT x AS number FROM c"),
            "it has the (table old|view rules)",
        ),
        (
            ("ALTER TABLE meta ADD COLUMN more TEXT AS (hex(zeroblob(9))) VIRTUAL",),
            "its table meta has computed columns",
        ),
        (("DROP TABLE steps",), "its table steps has other columns"),
        (("ALTER TABLE steps ADD COLUMN more TEXT",), "its table steps has other columns"),
        (("PRAGMA user_version = -1",), "has schema -1"),
        (("PRAGMA user_version = 0",), "is not a memory database"),
    ],
    ids=["view", "computed", "missing", "more", "negative", "none"],
)
def test_other_tables_than_a_memory_s_are_refused(
    tmp_path: Path, statements: tuple[str, ...], message: str, frozen: bool
) -> None:
    path = tmp_path / "memory.sqlite"
    memory(path)
    before = change(path, *statements)
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path, frozen)
    assert path.read_bytes() == before


@pytest.mark.parametrize("frozen", [False, True])
def test_an_emptied_memory_is_not_filled_again(tmp_path: Path, frozen: bool) -> None:
    path = tmp_path / "memory.sqlite"
    path.touch()
    with pytest.raises(ValueError, match=r"memory\.sqlite is not a memory database"):
        MemoryStore(path, frozen)
    assert path.read_bytes() == b""


def test_a_value_of_gigabytes_is_not_made(tmp_path: Path) -> None:
    memory(tmp_path / "memory.sqlite")
    with open_store(tmp_path) as store, pytest.raises(ValueError, match="too big"):
        store.read("SELECT zeroblob(1000000000)")


def test_what_a_kill_left_while_a_memory_was_made_is_removed(tmp_path: Path) -> None:
    left = [tmp_path / f".memory.sqlite.12.140.partial{end}" for end in ("", "-journal")]
    for path in left:
        path.write_bytes(b"half")
    memory(tmp_path / "memory.sqlite")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()
