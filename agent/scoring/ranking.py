"""Labels, label orders, chunks, and the combination of several scorings of one group.

VLM judges rank more reliably than they score, and are biased by the position in a list. So a group is scored under
several random orders of its labels. With r_pj the rank and s_p(k) the k-th best score under order p, hypothesis j gets

    rank_j = mean_p r_pj      score_j = S(rank_j)      S(k) = mean_p s_p(k), linear between whole ranks

This orders the group by mean rank and keeps the scale of the scores. The dispersion is the standard deviation of r_pj
over p.

Groups larger than a backend's image limit are scored in chunks and merged by shared anchors. A few hypotheses, the
anchors, are part of every chunk; the others are part of one each. The scale of a backend's scores differs between
questions, but the anchors are the same in all of them:

| symbol  | meaning                                                                                   |
|---------|-------------------------------------------------------------------------------------------|
| s_c(j)  | score of hypothesis j in chunk c                                                          |
| h_k     | the k-th lowest score of an anchor, mean over the chunks                                  |
| f_c     | piecewise linear, takes the k-th lowest score of an anchor in c to h_k; beyond the        |
|         | outermost anchors it continues with the mean slope                                        |
| v_j     | f_c(s_c(j)), for an anchor its mean over the chunks: the value that ranks the whole group |
| score_j | the scores given (an anchor's: their mean), sorted, at the rank of v_j                    |

f_c increases, so the members of a chunk keep their order. If the chunks' scores follow one order on scales that differ
by an affine map, the merged order is exact. If the scales also differ by a nonlinear increasing map, hypotheses
separated by an anchor are ordered exactly; hypotheses of different chunks between the same two anchors are ordered by
their relative position between these. Left out: more questions about such neighbours. Several label orders, each with
other anchors, have the same effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from common.seeding import derive_seed

__all__ = ["combine", "label_names", "label_orders", "merge_chunks", "order_seed", "split_order"]


def label_names(count: int) -> list[str]:
    """A, B, ..., Z, AA, AB, ..."""
    names = []
    for number in range(1, count + 1):
        name = ""
        while number:
            number, digit = divmod(number - 1, 26)
            name = chr(ord("A") + digit) + name
        names.append(name)
    return names


def label_orders(count: int, orders: int, seed: int) -> list[Int[np.ndarray, "count"]]:
    """Random orders of `count` hypotheses: the first label names hypothesis order[0], and so on."""
    rng = np.random.default_rng([seed, count])
    return [rng.permutation(count) for _ in range(orders)]


def order_seed(seed: int, case_id: str) -> int:
    """The seed of a case's label orders, a number that servers take.

    It differs between cases: under the same orders in all of them, a backend that prefers some labels would always
    prefer the same hypotheses, such as the policy's first.
    """
    return derive_seed(seed, "label orders", case_id) % 2**30


def combine(
    scorings: Sequence[Float[np.ndarray, "group"]],
) -> tuple[Float[np.ndarray, "group"], Float[np.ndarray, "group"]]:
    """Score and standard deviation of the rank of every hypothesis (formula above); the best has rank 0."""
    table = np.stack(scorings)
    ranks = rankdata(-table, axis=1) - 1
    profile = np.sort(table, axis=1)[:, ::-1].mean(axis=0)
    score = np.interp(ranks.mean(axis=0), np.arange(len(profile)), profile)
    return score, ranks.std(axis=0)


MAX_ANCHORS = 3


def split_order(
    order: Int[np.ndarray, "count"], limit: int, seed: int
) -> tuple[Int[np.ndarray, "anchors"], list[Int[np.ndarray, "_"]]]:
    """The anchors, and chunks of at most `limit` hypotheses, each with all anchors and in its own random order.

    The first hypotheses of the order become anchors: three, or half of a chunk if that is less. Raises ValueError for a
    limit below 2.
    """
    if limit < 2:
        raise ValueError(f"ranking takes at least 2 hypotheses in one question, not {limit}")
    if len(order) <= limit:
        return order[:0], [order]
    anchors, rest = np.split(order, [min(MAX_ANCHORS, limit // 2)])
    chunks = np.array_split(rest, -(-len(rest) // (limit - len(anchors))))
    rng = np.random.default_rng([seed, len(order)])
    return anchors, [rng.permutation(np.concatenate([anchors, chunk])) for chunk in chunks]


def merge_chunks(
    anchors: Int[np.ndarray, "anchors"],
    chunks: Sequence[Int[np.ndarray, "_"]],
    scores: Sequence[Float[np.ndarray, "_"]],
) -> Float[np.ndarray, "count"]:
    """One score per hypothesis, from the scores of at least two chunks with at least one anchor."""
    given = [dict(zip(c.tolist(), s.tolist(), strict=True)) for c, s in zip(chunks, scores, strict=True)]
    at_anchors = np.array([sorted(chunk[a] for a in anchors.tolist()) for chunk in given])
    heights = at_anchors.mean(axis=0)
    values: dict[int, list[float]] = {}
    by_hypothesis: dict[int, list[float]] = {}
    for chunk, scored, knots in zip(chunks, scores, at_anchors, strict=True):
        for j, score, value in zip(chunk.tolist(), scored, _onto(scored, knots, heights), strict=True):
            by_hypothesis.setdefault(j, []).append(score)
            values.setdefault(j, []).append(value)
    profile = np.sort([np.mean(column) for column in by_hypothesis.values()])
    # rounding: equal values may differ by the order of summation
    ranks = rankdata([round(float(np.mean(values[j])), 9) for j in range(len(values))]) - 1
    return np.interp(ranks, np.arange(len(profile)), profile)


def _onto(
    scored: Float[np.ndarray, "_"], knots: Float[np.ndarray, "anchors"], heights: Float[np.ndarray, "anchors"]
) -> Float[np.ndarray, "_"]:
    """f_c of the table above; tied anchors are one knot, at the mean of their heights."""
    knots, which = np.unique(knots, return_inverse=True)
    heights = np.bincount(which, weights=heights) / np.bincount(which)
    slope = (heights[-1] - heights[0]) / (knots[-1] - knots[0]) if len(knots) > 1 else 1.0
    beyond = np.minimum(scored - knots[0], 0) + np.maximum(scored - knots[-1], 0)
    return np.interp(scored, knots, heights) + slope * beyond
