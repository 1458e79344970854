from __future__ import annotations

import numpy as np
import pytest

from memory.vectors.index import VectorIndex, normalised

DIM = 16


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM))


def ids(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int64)


def filled(count: int = 200, exact_up_to: int = 10_000) -> VectorIndex:
    index = VectorIndex(DIM, exact_up_to)
    index.add(ids(count), vectors(count))
    return index


@pytest.mark.parametrize("exact_up_to", [10_000, 10])
def test_search_equals_brute_force(exact_up_to):
    index, queries = filled(exact_up_to=exact_up_to), vectors(20, seed=1)
    assert index.exact == (exact_up_to == 10_000)
    cosines = normalised(queries) @ normalised(vectors(200)).T
    for query, row in zip(queries, cosines, strict=True):
        found, similarities = index.search(query, 7)
        assert found.tolist() == np.argsort(-row)[:7].tolist()
        np.testing.assert_allclose(similarities, np.sort(row)[::-1][:7], atol=1e-6)


@pytest.mark.parametrize("exact_up_to", [10_000, 10])
def test_more_neighbours_than_vectors(exact_up_to):
    found, similarities = filled(20, exact_up_to).search(vectors(1)[0], 50)
    assert sorted(found) == list(range(20))
    assert len(similarities) == 20


def test_empty_index_and_zero_neighbours():
    assert len(VectorIndex(DIM).search(vectors(1)[0], 5)[0]) == 0
    assert len(filled().search(vectors(1)[0], 0)[0]) == 0


@pytest.mark.parametrize("exact_up_to", [10_000, 10])
def test_removed_vectors_are_not_found_and_can_be_added_again(exact_up_to):
    index = filled(100, exact_up_to)
    index.remove(ids(10))
    assert min(index.search(vectors(1)[0], 90)[0]) == 10
    index.add(ids(1), vectors(1, seed=9))
    assert index.search(vectors(1, seed=9)[0], 1)[0].tolist() == [0]
    index.remove(ids(80, start=10))
    assert sorted(index.search(vectors(1)[0], 100)[0]) == [0, *range(90, 100)]


@pytest.mark.parametrize("bad", [[3], [500, 500]])
def test_a_duplicate_id_is_refused(bad):
    index = filled()
    with pytest.raises(ValueError, match="once"):
        index.add(np.array(bad, np.int64), vectors(len(bad)))
    assert len(index) == 200


def test_removing_an_unknown_id_is_refused():
    with pytest.raises(KeyError, match="777"):
        filled().remove(np.array([777], np.int64))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_vectors_without_direction_are_refused(value):
    with pytest.raises(ValueError, match="direction"):
        VectorIndex(DIM).add(ids(1), np.full((1, DIM), value))


def test_other_length_is_refused():
    with pytest.raises(ValueError, match="16 numbers, not 3"):
        VectorIndex(DIM).add(ids(2), np.ones((2, 3)))


@pytest.mark.parametrize("exact_up_to", [10_000, 10])
def test_a_saved_index_gives_the_same_results(tmp_path, exact_up_to):
    index, path = filled(50, exact_up_to), tmp_path / "rows.faiss"
    index.remove(ids(5))
    index.save(path, "digest")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.faiss"]
    loaded = VectorIndex.load(path, DIM, "digest", exact_up_to)
    assert loaded is not None
    assert loaded.ids == index.ids
    query = vectors(1, seed=2)[0]
    for saved, again in zip(index.search(query, 60), loaded.search(query, 60), strict=True):
        np.testing.assert_array_equal(saved, again)


def test_an_outdated_or_damaged_file_is_not_loaded(tmp_path):
    path = tmp_path / "rows.faiss"
    assert VectorIndex.load(path, DIM, "digest") is None
    filled().save(path, "digest")
    assert VectorIndex.load(path, DIM, "other digest") is None
    assert VectorIndex.load(path, DIM + 1, "digest") is None
    whole = path.read_bytes()
    assert VectorIndex.load(path, DIM, "digest") is not None
    for at in np.random.default_rng(0).integers(0, len(whole), 100).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert VectorIndex.load(path, DIM, "digest") is None
    for damaged in (whole[:1000], whole[:20], b"", b"\xff\xfe\n", b"[]\n", b"3\n"):
        path.write_bytes(damaged)
        assert VectorIndex.load(path, DIM, "digest") is None
