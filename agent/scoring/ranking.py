"""Labels, label orders, and the combination of several scorings of one group.

VLM judges rank more reliably than they score, and are biased by the position in a list. So a group is scored under
several random orders of its labels. With r_pj the rank and s_p(k) the k-th best score under order p, hypothesis j gets

    rank_j = mean_p r_pj      score_j = S(rank_j)      S(k) = mean_p s_p(k), linear between whole ranks

This orders the group by mean rank and keeps the scale of the scores. The dispersion is the standard deviation of r_pj
over p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

__all__ = ["combine", "label_names", "label_orders"]


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


def combine(
    scorings: Sequence[Float[np.ndarray, "group"]],
) -> tuple[Float[np.ndarray, "group"], Float[np.ndarray, "group"]]:
    """Score and standard deviation of the rank of every hypothesis (formula above); the best has rank 0."""
    table = np.stack(scorings)
    ranks = rankdata(-table, axis=1) - 1
    profile = np.sort(table, axis=1)[:, ::-1].mean(axis=0)
    score = np.interp(ranks.mean(axis=0), np.arange(len(profile)), profile)
    return score, ranks.std(axis=0)
