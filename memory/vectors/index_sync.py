"""Keeps a vector index in sync with the embeddings of one table.

Writers change only the database. Before each search the index compares its rows with the table's and adds or removes
the difference, whether this process, another process or a rollback caused it.
"""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from common.storage.fingerprint import digest
from memory.store import MemoryStore, damage_named
from memory.vectors.index import VectorIndex

__all__ = ["SyncedIndex"]

_CHUNK = 8192  # rows per query, so that a large table is not held in memory twice


class SyncedIndex:
    """Searches the embeddings of `table`; cached in `<table>.faiss` beside the database."""

    def __init__(self, store: MemoryStore, table: Literal["rules", "prototypes"], dim: int) -> None:
        self._store, self._table, self._dim = store, table, dim
        self._cache = store.path.with_name(f"{table}.faiss") if store.path else None
        self._index: VectorIndex | None = None
        self._rows: dict[int, str] = {}  # number -> content id, as indexed
        self._version: tuple[int, int, int] | None = None
        self._saved_digest = ""

    def search(
        self, query: Float[np.ndarray, "dim"], k: int
    ) -> tuple[Int64[np.ndarray, "hits"], Float32[np.ndarray, "hits"]]:
        """Row numbers and cosines of the (at most) k nearest rows, best first."""
        with self._store.lock:
            return self._synced().search(query, k)

    def save(self) -> None:
        """Writes the cache file if it has other rows; a store that is frozen or in RAM has no cache file."""
        if self._cache is None or self._store.frozen:
            return
        with self._store.lock:
            index, rows_digest = self._synced(), _digest(self._rows)
            if rows_digest != self._saved_digest:
                index.save(self._cache, rows_digest)
                self._saved_digest = rows_digest

    def _synced(self) -> VectorIndex:
        version = self._store.version()
        if self._index is not None and version == self._version:
            return self._index
        key = "rule_id" if self._table == "rules" else "prototype_id"
        rows: dict[int, str] = dict(
            map(tuple, self._store.read(f"SELECT number, {key} FROM {self._table} ORDER BY number"))
        )
        if self._index is None:
            self._index = self._open(rows)
        stale = [number for number, row_id in self._rows.items() if rows.get(number) != row_id]
        if stale:
            self._index.remove(np.array(stale, np.int64))
        self._add([number for number, row_id in rows.items() if self._rows.get(number) != row_id])
        self._rows, self._version = rows, version
        return self._index

    def _open(self, rows: dict[int, str]) -> VectorIndex:
        rows_digest = _digest(rows)
        index = VectorIndex.load(self._cache, self._dim, rows_digest) if self._cache else None
        if index is None or index.ids != rows.keys():
            return VectorIndex(self._dim)
        self._rows, self._saved_digest = rows, rows_digest
        return index

    def _add(self, numbers: list[int]) -> None:
        assert self._index is not None
        query = (
            f"SELECT number, embedding FROM {self._table} "
            "WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number"
        )
        for start in range(0, len(numbers), _CHUNK):
            rows = self._store.read(query, (json.dumps(numbers[start : start + _CHUNK]),))
            with damage_named(f"an embedding among the {self._table}"):
                vectors = np.stack(
                    [np.frombuffer(row["embedding"], np.float32).reshape(self._dim) for row in rows]
                )
            self._index.add(np.array([row["number"] for row in rows], np.int64), vectors)


def _digest(rows: dict[int, str]) -> str:
    """Digest of numbers and ids; the ids are content hashes, so equal digests mean equal rows."""
    return digest(*(f"{number}:{row_id}\n" for number, row_id in rows.items()), length=64)
