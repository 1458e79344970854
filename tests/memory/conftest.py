"""A sentence embedder that can be checked by hand, and short ways to make rules and stores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memory.rule import Provenance, Rule
from memory.store import MemoryStore
from memory.vectors.index import normalised

WORDS = ("knee", "foot", "hand", "head", "back")


class WordCounts:
    """One axis per word of `WORDS`, and a small constant axis."""

    revision = "1"
    dim = len(WORDS) + 1

    def __init__(self, name: str = "word-counts") -> None:
        self.name = name

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return normalised(
            np.array([[text.split().count(word) for word in WORDS] + [0.01] for text in texts], float)
        )


def seed(text: str, *tags: str) -> Rule:
    return Rule.create(text, tags, Provenance("seed", "test", None))


@pytest.fixture
def store():
    with MemoryStore(":memory:") as store:
        yield store


@pytest.fixture
def words() -> WordCounts:
    return WordCounts()
