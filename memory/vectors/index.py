"""Nearest-neighbour search by cosine: exact up to a size, with an HNSW graph beyond it.

A FAISS index under `IndexIDMap2` with normalised vectors, so the inner product is the cosine. Three properties of FAISS
are hidden here: it returns id -1 if there are fewer vectors than requested, it accepts duplicate ids, and an HNSW graph
(Malkov & Yashunin, arXiv 1603.09320) cannot remove vectors, so removed ids are skipped and the graph is rebuilt from
time to time.

The saved file is a cache: `load` returns None unless the file has the requested digest, and then the index is built
again from the vectors. Left out: IVF, which needs training data that a memory of ten rows does not have.
"""

# FAISS's Python module is generated: pyright sees neither all of its names nor its argument types.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int64

from common.storage.files import PathLike, atomic_path

__all__ = ["EXACT_UP_TO", "VectorIndex", "normalised"]

# Measured with benchmarks/performance/retrieval.py, vectors of length 512: exact search takes 0.8 ms for 10,000
# vectors, 1.8 ms for 20,000 and 3.8 ms for 40,000; the graph takes 0.5 ms for all of them, but minutes to build.
CHECKSUM_BYTES = 32  # at the start of a file
EXACT_UP_TO = 20_000
_NEIGHBOURS = 32  # HNSW's M: edges per vertex
_EF_CONSTRUCTION = 80
_EF_SEARCH = 128  # least size of the candidate list of a search; at least k


class VectorIndex:
    """Vectors of length `dim` under integer ids. Not thread-safe during writes."""

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
        """Vectors need not be normalised. Raises ValueError for an id that exists already or occurs twice, for vectors
        of another length, and for vectors that are zero or not finite."""
        new = set(ids.tolist())
        if len(new) < len(ids) or new & self._live:
            raise ValueError(
                f"every id can be added once; {sorted(new & self._live)[:5] or 'one'} occurs twice"
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
        """Raises KeyError for an unknown id."""
        removed = set(ids.tolist())
        if not removed <= self._live:
            raise KeyError(f"no vector has id {min(removed - self._live)}")
        self._live -= removed
        if self.exact:
            self._faiss.remove_ids(ids)
            return
        self._removed |= removed
        if len(self._removed) > len(self._live) // 4:
            self._rebuild(graph=len(self) > self._exact_up_to)

    def search(
        self, query: Float[np.ndarray, "dim"], k: int
    ) -> tuple[Int64[np.ndarray, "hits"], Float32[np.ndarray, "hits"]]:
        """Ids and cosines of the (at most) k nearest vectors, best first; equal cosines in any order."""
        k = min(k, len(self))
        if k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        with _one_thread():
            similarities, ids = self._faiss.search(normalised(query[None]), k, params=self._parameters(k))
        found = ids[0] >= 0
        return ids[0][found], similarities[0][found].clip(-1, 1)

    def save(self, path: PathLike, digest: str) -> None:
        """Writes the index with the digest of its vectors, in one step."""
        header = {"digest": digest, "dim": self.dim, "removed": sorted(self._removed)}
        with atomic_path(path) as partial, partial.open("wb") as file:
            content = json.dumps(header).encode() + b"\n" + faiss.serialize_index(self._faiss).tobytes()
            file.write(hashlib.sha256(content).digest() + content)

    @staticmethod
    def load(path: PathLike, dim: int, digest: str, exact_up_to: int = EXACT_UP_TO) -> VectorIndex | None:
        """The saved index, or None if there is no valid file with this length and digest.

        FAISS has no checksums: a flipped bit would be another vector, or a crash.
        """
        if not Path(path).is_file():
            return None
        file = io.BytesIO(Path(path).read_bytes())
        if file.read(CHECKSUM_BYTES) != hashlib.sha256(file.getbuffer()[CHECKSUM_BYTES:]).digest():
            return None
        index = VectorIndex(dim, exact_up_to)
        try:
            header = json.loads(file.readline())
            if (header["digest"], header["dim"]) != (digest, dim):
                return None
            index._removed = set(header["removed"])
            index._faiss = faiss.read_index(faiss.PyCallbackIOReader(file.read))
        except (
            ValueError,
            TypeError,
            KeyError,
            RuntimeError,
        ):  # FAISS raises RuntimeError for a damaged file
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
        with _one_thread():  # a graph built by several threads differs between runs
            self._faiss.add_with_ids(unit, ids)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits FAISS to one thread: more do not speed up a single query, and on busy cores they wait for each other for
    tenths of a second."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def normalised(vectors: Float[np.ndarray, "batch dim"]) -> Float32[np.ndarray, "batch dim"]:
    """The rows scaled to length 1. Raises ValueError for a row that is zero or not finite."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError("an embedding must be finite and not all zero, otherwise it has no direction")
    return vectors / lengths
