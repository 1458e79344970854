"""Merging chunks: properties of the recovered order, and one example computed by hand."""

import numpy as np
import pytest

from agent.scoring.ranking import merge_chunks, split_order

SIZES = [(5, 2), (20, 8), (20, 3), (33, 10), (7, 6), (100, 9)]


def chunked(count: int, limit: int, seed: int = 0):
    order = np.random.default_rng(seed).permutation(count)
    return split_order(order, limit, seed)


@pytest.mark.parametrize(("count", "limit"), SIZES)
def test_every_chunk_holds_the_anchors_and_every_other_hypothesis_stands_in_one(count, limit):
    anchors, chunks = chunked(count, limit)
    others = np.concatenate([np.setdiff1d(chunk, anchors) for chunk in chunks])
    assert len(anchors) >= 1
    assert all(len(chunk) <= limit and set(anchors) <= set(chunk) for chunk in chunks)
    assert sorted([*others, *anchors]) == list(range(count))


def test_a_group_that_fits_stays_whole_and_in_its_order():
    order = np.array([2, 0, 1])
    anchors, (chunk,) = split_order(order, 3, seed=0)
    assert len(anchors) == 0
    assert chunk.tolist() == [2, 0, 1]


def test_a_limit_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 hypotheses in one question, not 1"):
        split_order(np.arange(3), 1, seed=0)


@pytest.mark.parametrize(("count", "limit"), SIZES)
def test_scores_on_one_scale_are_unchanged(count, limit):
    truth = np.random.default_rng(1).uniform(0, 100, count)
    anchors, chunks = chunked(count, limit)
    assert merge_chunks(anchors, chunks, [truth[chunk] for chunk in chunks]) == pytest.approx(truth)


@pytest.mark.parametrize(("count", "limit"), [size for size in SIZES if size[1] > 3])
def test_an_order_is_recovered_from_scales_that_differ_by_chunk(count, limit):
    rng = np.random.default_rng(2)
    truth = rng.permutation(count).astype(float)
    anchors, chunks = chunked(count, limit)
    scores = [rng.uniform(0.1, 0.9) * truth[chunk] + rng.uniform(0, 10) for chunk in chunks]
    assert merge_chunks(anchors, chunks, scores).argsort().tolist() == truth.argsort().tolist()


@pytest.mark.parametrize("bend", [np.exp, np.sqrt, lambda x: 100 * x**4])
def test_a_nonlinear_scale_keeps_the_order_within_chunks_and_across_anchors(bend):
    rng = np.random.default_rng(3)
    truth = rng.permutation(30) / 30
    anchors, chunks = chunked(30, 10)
    merged = merge_chunks(anchors, chunks, [rng.uniform(0.5, 2) * bend(truth[chunk]) for chunk in chunks])
    for chunk in chunks:
        assert merged[chunk].argsort().tolist() == truth[chunk].argsort().tolist()
    for anchor in anchors:
        assert ((merged > merged[anchor]) == (truth > truth[anchor])).all()


def test_contradicting_anchors_keep_the_order_within_each_chunk():
    anchors, chunks = np.array([0, 1]), [np.array([0, 1, 2, 3]), np.array([0, 1, 4, 5])]
    merged = merge_chunks(anchors, chunks, [np.array([80.0, 20, 10, 90]), np.array([20.0, 80, 30, 70])])
    assert merged[2] < merged[3]
    assert merged[4] < merged[5]


def test_equal_scores_stay_equal():
    anchors, chunks = chunked(20, 8)
    assert (
        merge_chunks(anchors, chunks, [np.full(len(chunk), 50.0) for chunk in chunks]).tolist() == [50.0] * 20
    )


def test_an_example_by_hand():
    # Anchors 0 and 1 get 20 and 80 in the first chunk, 40 and 60 in the second: h = (30, 70).
    # First chunk: 2 got 50, halfway between the anchors: v = 50. Second: 3 got 45, a quarter of the way: v = 40.
    # Order 0 (30), 3 (40), 2 (50), 1 (70). Scores given: 30, 45, 50, 70 (anchors by their means).
    anchors, chunks = np.array([0, 1]), [np.array([0, 1, 2]), np.array([3, 1, 0])]
    merged = merge_chunks(anchors, chunks, [np.array([20.0, 80, 50]), np.array([45.0, 60, 40])])
    assert merged.tolist() == [30, 70, 50, 45]
