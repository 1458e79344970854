"""Nearest vectors by cosine: exact while that is fast, an HNSW graph beyond.

A FAISS index under `IndexIDMap2`, its vectors normalised so that the inner product is the cosine. FAISS
leaves some traps open that are closed here: fewer vectors than asked for come back as id -1, duplicate ids
are taken silently, and a graph (Malkov & Yashunin, arXiv 1603.09320) cannot remove, so removed ids are
skipped until they pile up.

The file `save` writes is a cache: `load` returns None unless it carries the digest asked for, and whoever
owns the vectors can always build it anew. Left out: IVF, which must be trained and cannot be on a memory of
ten rows.
"""

# FAISS's Python half is generated: pyright sees neither all of its names nor its true argument types.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

__all__ = ["EXACT_UP_TO", "VectorIndex", "normalised"]

# Measured by benchmarks/retrieval.py, vectors of 512: exact search takes 0.8 ms among 10,000, 1.8 among
# 20,000 and 3.8 among 40,000, the graph 0.5 throughout; but the graph takes minutes to build where the exact
# index takes none.
EXACT_UP_TO = 20_000
_NEIGHBOURS = 32  # HNSW's M: edges a vertex
_EF_CONSTRUCTION = 80
_EF_SEARCH = 128  # smallest candidate list of a search; never less than k


class VectorIndex:
    """Vectors of `dim` numbers under integer ids. Not thread-safe while it is written to."""

    def __init__(self, dim: int, exact_up_to: int = EXACT_UP_TO) -> None:
        self.dim = dim
        self._exact_up_to = exact_up_to
        self._live: set[int] = set()
        self._removed: set[int] = set()  # still in the graph, skipped by `search`
        self._faiss = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        return len(self._live)

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self._live)

    @property
    def exact(self) -> bool:
        return isinstance(faiss.downcast_index(self._faiss.index), faiss.IndexFlat)

    def add(self, ids: Int64[np.ndarray, "batch"], vectors: Float[np.ndarray, "batch dim"]) -> None:
        """Vectors need not be normalised. Raises ValueError for an id that is there already or comes twice,
        for vectors of another length, and for vectors without a direction (zero or not finite)."""
        new = set(ids.tolist())
        if len(new) < len(ids) or new & self._live:
            raise ValueError(
                f"every id can be added once; {sorted(new & self._live)[:5] or 'one'} came twice"
            )
        if vectors.shape[1] != self.dim:
            raise ValueError(f"this index holds vectors of {self.dim} numbers, not {vectors.shape[1]}")
        unit = normalised(vectors)
        if new & self._removed:
            self._rebuild()
        if self.exact and len(self) + len(new) > self._exact_up_to:
            self._rebuild(graph=True)
        self._insert(unit, ids)
        self._live |= new

    def remove(self, ids: Int64[np.ndarray, "batch"]) -> None:
        """Raises KeyError for an id that is not there."""
        gone = set(ids.tolist())
        if not gone <= self._live:
            raise KeyError(f"no vector has id {min(gone - self._live)}")
        self._live -= gone
        if self.exact:
            self._faiss.remove_ids(ids)
            return
        self._removed |= gone
        if len(self._removed) > len(self._live) // 4:
            self._rebuild(graph=len(self) > self._exact_up_to)

    def search(
        self, query: Float[np.ndarray, "dim"], k: int
    ) -> tuple[Int64[np.ndarray, "hits"], Float32[np.ndarray, "hits"]]:
        """Ids and cosines of the (at most) k nearest, best first, ties in any order."""
        k = min(k, len(self))
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        with _one_thread():
            similarities, ids = self._faiss.search(normalised(query[None]), k, params=self._parameters(k))
        found = ids[0] >= 0
        return ids[0][found], similarities[0][found].clip(-1, 1)

    def save(self, path: Path, digest: str) -> None:
        """Writes the index and the digest of what it was built from, in one step."""
        header = {"digest": digest, "dim": self.dim, "removed": sorted(self._removed)}
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with partial.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            faiss.write_index(self._faiss, faiss.PyCallbackIOWriter(file.write))
        partial.replace(path)

    @staticmethod
    def load(path: Path, dim: int, digest: str, exact_up_to: int = EXACT_UP_TO) -> VectorIndex | None:
        """The saved index, or None where there is none, or none built from what `digest` stands for."""
        if not path.is_file():
            return None
        index = VectorIndex(dim, exact_up_to)
        try:
            with path.open("rb") as file:
                header = json.loads(file.readline())
                if (header["digest"], header["dim"]) != (digest, dim):
                    return None
                index._removed = set(header["removed"])
                index._faiss = faiss.read_index(faiss.PyCallbackIOReader(file.read))
        except (ValueError, TypeError, KeyError, RuntimeError):  # FAISS raises RuntimeError on a damaged file
            return None
        index._live = set(faiss.vector_to_array(index._faiss.id_map).tolist()) - index._removed
        return index

    def _parameters(self, k: int) -> faiss.SearchParameters | None:
        if self.exact:
            return None
        selector = None
        if self._removed:
            selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(sorted(self._removed), np.int64)))
        return faiss.SearchParametersHNSW(efSearch=max(_EF_SEARCH, k), sel=selector)

    def _rebuild(self, graph: bool | None = None) -> None:
        graph = not self.exact if graph is None else graph
        ids = faiss.vector_to_array(self._faiss.id_map)
        kept = np.isin(ids, np.array(sorted(self._live), np.int64))
        vectors = faiss.downcast_index(self._faiss.index).reconstruct_n(0, len(ids))[kept]
        inner = faiss.IndexFlatIP(self.dim)
        if graph:
            inner = faiss.IndexHNSWFlat(self.dim, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            inner.hnsw.efConstruction = _EF_CONSTRUCTION
        self._faiss = faiss.IndexIDMap2(inner)
        self._insert(vectors, ids[kept])
        self._removed = set()

    def _insert(self, unit: Float32[np.ndarray, "batch dim"], ids: Int64[np.ndarray, "batch"]) -> None:
        with _one_thread():  # a graph that several threads build differs from run to run
            self._faiss.add_with_ids(unit, ids)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Without FAISS's thread team: for one query it gains nothing, and where other work holds the cores its
    members wait for each other for tenths of a second."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def normalised(vectors: Float[np.ndarray, "batch dim"]) -> Float32[np.ndarray, "batch dim"]:
    """Rows scaled to length 1. Raises ValueError for a row that is zero or not finite."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError("an embedding must be finite and not all zero: it has no direction otherwise")
    return vectors / lengths
