"""Prototype memory: representative cases of the exploration phase, retrieved by image similarity.

A prototype consists of an image embedding v_i, a critique rationale with its score r_i, and tags T_i (section 2 of the
method, arXiv 2602.19180); retrieval returns the top K by cosine to the embedding of the query image. The paper does not
specify size or selection. Here the memory is bounded and kept diverse: a prototype added to a full memory is inserted,
and then one of the closest pair is removed, with the distance (1 - cosine) + |difference of scores| / 100.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from common.storage.fingerprint import json_digest
from memory.store import MemoryStore, damage_named
from memory.text_limits import check_tags, check_text, is_word, normalise_tags
from memory.vectors.index import normalised
from memory.vectors.index_sync import SyncedIndex

__all__ = ["NOT_TAKEN_OVER", "Prototype", "PrototypeMemory", "prototype_from_row", "without_text"]

NOT_TAKEN_OVER = "the rationale of another memory, which was not taken over"


@dataclass(frozen=True)
class Prototype:
    """One judged hypothesis of an exploration case; `prototype_id` is a hash of the other fields."""

    prototype_id: str
    case_id: str
    rationale: str
    score: float  # 0 to 100, given by the critic
    tags: tuple[str, ...]
    evidence: dict[str, float]  # metric -> its value for this hypothesis
    weights: dict[str, float]  # metric -> Spearman's rho with the true error within the group of this case

    def __post_init__(self) -> None:
        check_text("a prototype's rationale", self.rationale)
        check_tags("a prototype", self.tags)
        if not 0 <= self.score <= 100:
            raise ValueError(f"a prototype's score lies between 0 and 100, not {self.score}")

    @staticmethod
    def create(
        case_id: str,
        rationale: str,
        score: float,
        tags: Sequence[str],
        evidence: Mapping[str, float],
        weights: Mapping[str, float],
    ) -> Prototype:
        """A prototype with its id. Raises ValueError for invalid text (`memory.text_limits`) or an invalid score."""
        rationale, tags = rationale.strip(), normalise_tags(tags)
        content = [case_id, rationale, score, tags, dict(evidence), dict(weights)]
        return Prototype(json_digest(content), case_id, rationale, score, tags, dict(evidence), dict(weights))


def without_text(prototype: Prototype) -> Prototype:
    """The prototype with its numbers and single words, and none of its sentences."""
    return Prototype.create(
        prototype.case_id,
        NOT_TAKEN_OVER,
        prototype.score,
        [tag for tag in prototype.tags if is_word(tag)],
        {name: value for name, value in prototype.evidence.items() if is_word(name)},
        {name: value for name, value in prototype.weights.items() if is_word(name)},
    )


class PrototypeMemory:
    """The prototypes of a store, with embeddings of one image embedder. Thread-safe.

    A write to a full memory takes time quadratic in `capacity`: milliseconds at the default. Raises ValueError, with
    both values, if the store's prototypes have embeddings of another model or length.
    """

    def __init__(self, store: MemoryStore, dim: int, embedder_name: str, capacity: int = 512) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity of a prototype memory is at least 1, not {capacity}")
        self.capacity = capacity
        self._store, self._dim = store, dim
        self._settings = {"image_embedder": embedder_name, "image_dim": str(dim)}
        for key, value in self._settings.items():
            store.require_meta(key, value)
        self._index = SyncedIndex(store, "prototypes", dim)

    def __len__(self) -> int:
        return self._store.read("SELECT COUNT(*) FROM prototypes")[0][0]

    def all(self) -> list[Prototype]:
        """All prototypes, in the order in which they were added."""
        return [
            prototype_from_row(row) for row in self._store.read("SELECT * FROM prototypes ORDER BY number")
        ]

    def add(self, prototypes: Sequence[tuple[Prototype, Float[np.ndarray, "dim"]]]) -> list[str]:
        """Adds prototypes with their image embeddings, one by one; returns the ids of those that were not removed.

        A known id changes nothing. Raises ValueError for an embedding of another length, zero or not finite, and
        FrozenMemoryError; then none is added.
        """
        with self._store.transaction() as connection:
            for key, value in self._settings.items():
                self._store.set_meta_once(key, value)
            count = len(self)
            for prototype, embedding in prototypes:
                if len(embedding) != self._dim:
                    raise ValueError(
                        f"prototypes here have embeddings of {self._dim} numbers, not {len(embedding)}"
                    )
                row = (*_to_row(prototype), normalised(embedding[None]).tobytes())
                count += connection.execute(_INSERT, row).rowcount
                if count > self.capacity:
                    count -= self._drop_most_redundant(connection)
            kept = {row["prototype_id"] for row in connection.execute("SELECT prototype_id FROM prototypes")}
        return [prototype.prototype_id for prototype, _ in prototypes if prototype.prototype_id in kept]

    def nearest(self, embedding: Float[np.ndarray, "dim"], k: int) -> list[tuple[Prototype, float]]:
        """The (at most) k nearest prototypes with their cosines, best first; ties are ordered by id."""
        numbers, _ = self._index.search(embedding, k)
        query = "SELECT * FROM prototypes WHERE number IN (SELECT value FROM json_each(?))"
        rows = self._store.read(query, (json.dumps(numbers.tolist()),))
        direction = normalised(embedding[None])[0]
        # The cosine is computed from the row, because the index is only a cache of the database.
        found = [(prototype_from_row(row), float((_vector(row) @ direction).clip(-1, 1))) for row in rows]
        return sorted(found, key=lambda pair: (-pair[1], pair[0].prototype_id))

    def save_index(self) -> None:
        """Writes the vector index to a cache file next to the database, for a faster start."""
        self._index.save()

    def _drop_most_redundant(self, connection: sqlite3.Connection) -> int:
        rows = self._store.read("SELECT number, score, embedding FROM prototypes ORDER BY number")
        redundant = _most_redundant(
            np.stack([_vector(row) for row in rows]), np.array([row["score"] for row in rows])
        )
        number = rows[redundant]["number"]
        return connection.execute("DELETE FROM prototypes WHERE number = ?", (number,)).rowcount


_INSERT = """
    INSERT INTO prototypes (prototype_id, case_id, rationale, score, tags, evidence, weights, embedding)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""


def _most_redundant(vectors: Float32[np.ndarray, "rows dim"], scores: Float[np.ndarray, "rows"]) -> int:
    """The member of the closest pair that is closer to a third row; the later one if both are equally close."""
    distances = (1 - vectors @ vectors.T) + np.abs(scores[:, None] - scores) / 100
    np.fill_diagonal(distances, np.inf)
    earlier, later = sorted(np.unravel_index(distances.argmin(), distances.shape))
    third = np.partition(distances[[earlier, later]], 1, axis=1)[:, 1]
    return int(earlier if third[0] < third[1] else later)


def _vector(row: sqlite3.Row) -> Float32[np.ndarray, "dim"]:
    return np.frombuffer(row["embedding"], np.float32)


def _to_row(prototype: Prototype) -> tuple[str | float, ...]:
    return (
        prototype.prototype_id,
        prototype.case_id,
        prototype.rationale,
        prototype.score,
        json.dumps(prototype.tags),
        json.dumps(prototype.evidence),
        json.dumps(prototype.weights),
    )


def prototype_from_row(row: sqlite3.Row | Mapping[str, Any]) -> Prototype:
    with damage_named(f"the prototype {row['prototype_id']}"):
        return Prototype(
            prototype_id=row["prototype_id"],
            case_id=row["case_id"],
            rationale=row["rationale"],
            score=row["score"],
            tags=tuple(json.loads(row["tags"])),
            evidence=dict(json.loads(row["evidence"])),
            weights=dict(json.loads(row["weights"])),
        )
