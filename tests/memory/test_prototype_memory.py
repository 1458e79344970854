from __future__ import annotations

import numpy as np
import pytest

from memory.prototype_memory import Prototype, PrototypeMemory
from memory.store import FrozenMemoryError, MemoryStore

DIM = 4


def prototype(case: str, score: float = 50.0) -> Prototype:
    return Prototype.create(
        case, f"seen in {case}", score, ["leg"], {"reprojection_px": 3.5}, {"reprojection_px": 0.6}
    )


def direction(*values: float) -> np.ndarray:
    return np.array(values, float)


@pytest.fixture
def memory(store) -> PrototypeMemory:
    return PrototypeMemory(store, DIM, "encoder@1", capacity=3)


def cases(memory: PrototypeMemory) -> list[str]:
    return [kept.case_id for kept in memory.all()]


def test_prototypes_are_read_back_unchanged(memory):
    entry = prototype("a")
    assert memory.add([(entry, direction(1, 0, 0, 0))]) == [entry.prototype_id]
    assert memory.add([(entry, direction(1, 0, 0, 0))]) == [entry.prototype_id]
    assert memory.all() == [entry]


def test_nearest_by_cosine(memory):
    memory.add([(prototype("a"), direction(2, 0, 0, 0)), (prototype("b"), direction(0, 5, 0, 0))])
    (first, best), (second, other) = memory.nearest(direction(3, 4, 0, 0), 5)
    # cos((3, 4), e_2) = 4 / 5, cos((3, 4), e_1) = 3 / 5, whatever the lengths
    assert [(first.case_id, best), (second.case_id, other)] == [
        ("b", pytest.approx(0.8)),
        ("a", pytest.approx(0.6)),
    ]


def test_nearest_equals_brute_force(store):
    generator = np.random.default_rng(0)
    memory, vectors = PrototypeMemory(store, 8, "encoder"), generator.normal(size=(300, 8))
    memory.add([(prototype(str(i)), vector) for i, vector in enumerate(vectors)])
    query = generator.normal(size=8)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    assert [int(found.case_id) for found, _ in memory.nearest(query, 9)] == np.argsort(-cosines)[:9].tolist()


def test_an_empty_memory_returns_nothing(memory):
    assert memory.nearest(direction(1, 0, 0, 0), 3) == []


def test_ties_go_to_the_smaller_id(memory):
    equal = [prototype(case) for case in "abc"]
    memory.add([(item, direction(1, 1, 0, 0)) for item in equal])
    found = [entry.prototype_id for entry, _ in memory.nearest(direction(1, 1, 0, 0), 3)]
    assert found == sorted(found)


def test_a_full_memory_removes_the_most_redundant(memory):
    corners = [direction(1, 0, 0, 0), direction(0, 1, 0, 0), direction(0, 0, 1, 0)]
    memory.add([(prototype(case), corner) for case, corner in zip("abc", corners, strict=True)])
    assert memory.add([(prototype("copy"), corners[0])]) == []  # nothing new: the later one of the pair goes
    assert cases(memory) == ["a", "b", "c"]
    between = prototype("between b and c")  # nearest to both, so it leaves again
    assert memory.add([(between, direction(0, 1, 1, 0))]) == []
    # c and one of its look but a score of 0 are .5 apart; c is 1 from a and b, the other 1.5: c goes
    memory.add([(prototype("worse", 0.0), corners[2])])
    assert cases(memory) == ["a", "b", "worse"]


def test_of_the_closest_pair_the_one_closer_to_a_third_is_removed(memory):
    degrees = {"a": 0, "b": 10, "c": 60, "d": 90}  # a and b are closest; b is nearer to c than a is
    memory.add(
        [
            (prototype(case), direction(np.cos(np.radians(d)), np.sin(np.radians(d)), 0, 0))
            for case, d in degrees.items()
        ]
    )
    assert cases(memory) == ["a", "c", "d"]


def test_equal_embeddings_with_different_scores_are_not_redundant(memory):
    look = direction(1, 0, 0, 0)
    near = direction(1, 0.1, 0, 0)
    # distances: a-b .9 (scores), a-c .005 (looks), so one of a and c goes although all look alike
    memory.add(
        [
            (prototype("a", 5.0), look),
            (prototype("b", 95.0), look),
            (prototype("c", 5.0), near),
            (prototype("d", 50.0), look),
        ]
    )
    assert sorted(entry.score for entry in memory.all()) == [5, 50, 95]


def test_the_result_does_not_depend_on_the_batch_size():
    vectors = np.random.default_rng(1).normal(size=(40, DIM))
    entries = [(prototype(str(i), float(i)), vector) for i, vector in enumerate(vectors)]
    kept = []
    for size in (1, 7, 40):
        with MemoryStore(":memory:") as store:
            memory = PrototypeMemory(store, DIM, "encoder", capacity=10)
            for start in range(0, 40, size):
                memory.add(entries[start : start + size])
            kept.append(memory.all())
    assert len(kept[0]) == 10
    assert kept[0] == kept[1] == kept[2]


def closest_pair(memory: PrototypeMemory, store: MemoryStore) -> float:
    rows = store.read("SELECT score, embedding FROM prototypes")
    vectors = np.stack([np.frombuffer(row["embedding"], np.float32) for row in rows])
    scores = np.array([row["score"] for row in rows])
    distances = 1 - vectors @ vectors.T + np.abs(scores[:, None] - scores) / 100
    return float(distances[np.triu_indices(len(rows), 1)].min())


@pytest.mark.parametrize("seed", range(5))
def test_the_closest_pair_of_a_full_memory_never_gets_closer(store, seed):
    """A write never reduces the distance of the closest pair and never changes the number of prototypes."""
    generator = np.random.default_rng(seed)
    memory, spreads = PrototypeMemory(store, DIM, "encoder", capacity=8), []
    for number in range(60):
        score = float(generator.uniform(0, 100))
        memory.add([(prototype(str(number), score), generator.normal(size=DIM))])
        if number >= 8:
            assert len(memory) == 8
            spreads.append(closest_pair(memory, store))
    assert np.diff(spreads).min() > -1e-6
    assert spreads[-1] > spreads[0]


@pytest.mark.parametrize("bad", [direction(0, 0, 0, 0), direction(1, np.nan, 0, 0), direction(1, 2, 3)])
def test_bad_embedding_adds_nothing(memory, bad):
    with pytest.raises(ValueError, match="embedding"):
        memory.add([(prototype("a"), direction(1, 0, 0, 0)), (prototype("b"), bad)])
    assert len(memory) == 0
    assert memory.nearest(direction(1, 0, 0, 0), 1) == []


@pytest.mark.parametrize(
    ("rationale", "score"), [("two\nlines", 50), ("x" * 301, 50), ("fine", 101), ("fine", float("nan"))]
)
def test_bad_prototypes_are_refused(rationale, score):
    with pytest.raises(ValueError, match="a prototype's"):
        Prototype.create("a", rationale, float(score), [], {}, {})


def test_another_embedder_or_length_is_refused(memory, store):
    memory.add([(prototype("a"), direction(1, 0, 0, 0))])
    with pytest.raises(ValueError, match="'encoder@1', not 'clip'"):
        PrototypeMemory(store, DIM, "clip")
    with pytest.raises(ValueError, match="'4', not '8'"):
        PrototypeMemory(store, 8, "encoder@1")


def test_frozen_memory_refuses_to_write(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        PrototypeMemory(store, DIM, "encoder").add([(prototype("a"), direction(1, 0, 0, 0))])
    with MemoryStore(path, frozen=True) as store:
        memory = PrototypeMemory(store, DIM, "encoder")
        with pytest.raises(FrozenMemoryError):
            memory.add([(prototype("b"), direction(0, 1, 0, 0))])
        assert cases(memory) == ["a"]
