"""Copies what is whole of a damaged memory into a new one.

SQLite reads a damaged table up to the first bad page, so every table is read from both ends. A row is kept if it can be
parsed and if the rows that it refers to are there; the indices are made again from the embeddings. If the names of the
models that embedded them are lost, rules are embedded again; prototypes are left out, as no photograph is stored.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.storage.files import PathLike
from memory.folder import removed_if_new_and_failed, store_path
from memory.ledger import rule_from_row
from memory.prototype_memory import prototype_from_row
from memory.store import MemoryStore
from memory.vectors.embed import TextEmbedder, embedder_id, load_text_embedder

__all__ = ["recover"]

Row = dict[str, Any]
# Tables with the columns by which a row is known; rows refer to rows of earlier tables.
_KEYS = {
    "meta": "key", "rules": "number", "cases": "case_id", "rule_uses": "rule_id, case_id", "prototypes": "number",
    "rule_history": "number", "explored": "case_id", "steps": "step",
}  # fmt: skip
_LOST_HISTORY = """
INSERT INTO rule_history (rule_id, state, reason)
SELECT rule_id, state, 'recovered without its history' FROM rules
WHERE rule_id NOT IN (SELECT rule_id FROM rule_history) ORDER BY number
"""


def recover(
    damaged: PathLike, new: PathLike, load_embedder: Callable[[], TextEmbedder] = load_text_embedder
) -> dict[str, int]:
    """Copies the memory in one folder to another one, which must not have any. Returns the number of rows by table.

    load_embedder: embeds the rules again if the name of the model that embedded them is lost.

    Raises FileNotFoundError if there is no memory to copy, and ValueError if nothing of it can be read or if there is
    a memory in `new`.
    """
    source, target = store_path(damaged), store_path(new)
    if not source.is_file():
        raise FileNotFoundError(f"{damaged}: there is no memory here")
    if target.exists():
        raise ValueError(f"{new} has a memory; choose a new folder")
    with removed_if_new_and_failed(new), MemoryStore(target) as store:
        copied = {table: _copy(table, source, store) for table in _KEYS}
        with store.transaction() as connection:
            connection.execute(_LOST_HISTORY)
        if copied["rules"] and store.meta("text_embedder") is None:
            _embed_again(store, load_embedder())
        if not any(copied.values()):
            raise ValueError(f"nothing of {source} can be read")
    return copied


def _embed_again(store: MemoryStore, embedder: TextEmbedder) -> None:
    rows = store.read("SELECT rule_id, text FROM rules")
    vectors = embedder.embed([row["text"] for row in rows])
    with store.transaction() as connection:
        connection.execute("DELETE FROM meta WHERE key = 'text_dim'")
        for row, vector in zip(rows, vectors, strict=True):
            changed = (vector.tobytes(), row["rule_id"])
            connection.execute("UPDATE rules SET embedding = ? WHERE rule_id = ?", changed)
        store.set_meta_once("text_embedder", embedder_id(embedder))
        store.set_meta_once("text_dim", str(vectors.shape[1]))


def _copy(table: str, source: Path, store: MemoryStore) -> int:
    if (
        table == "prototypes" and store.meta("image_embedder") is None
    ):  # nobody knows what their embeddings are of
        return 0
    rows = {tuple(row[key] for key in _KEYS[table].split(", ")): row for row in _readable(table, source)}
    whole = [row for row in rows.values() if _is_whole(table, row)]
    sizes = Counter(len(row["embedding"]) for row in whole if "embedding" in row)
    kept = 0
    with store.transaction() as connection:
        for row in whole:
            if "embedding" not in row or len(row["embedding"]) == sizes.most_common(1)[0][0]:
                kept += _insert(connection, table, row)
    return kept


def _readable(table: str, source: Path) -> Iterator[Row]:
    """The rows of a table up to the first error, from the start and, if there was one, from the end."""
    connection = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    key = _KEYS[table]
    try:
        for order in (key, ", ".join(f"{name} DESC" for name in key.split(", "))):
            try:
                for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}"):
                    yield dict(row)
                return
            except sqlite3.DatabaseError:
                continue
    finally:
        connection.close()


def _is_whole(table: str, row: Row) -> bool:
    try:
        if table == "rules":
            rule_from_row({**row, "uses": 0, "successes": 0})
        elif table == "prototypes":
            prototype_from_row(row)
        elif table == "explored":
            json.loads(row["judged"])
        return bool(np.isfinite(np.frombuffer(row.get("embedding", b""), np.float32)).all())
    except (ValueError, TypeError, RecursionError):
        return False


def _insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """1 if the row was inserted, 0 if it breaks a constraint, such as a reference to a row that is lost."""
    columns = ", ".join(row)
    try:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))
    except sqlite3.IntegrityError:
        return 0
    return 1
