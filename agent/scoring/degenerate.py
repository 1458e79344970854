"""Finds scores that say nothing about the hypotheses, because of how a backend answered.

| name        | the backend gave                                                                                 |
|-------------|--------------------------------------------------------------------------------------------------|
| unscored    | scores for nobody                                                                                |
| equal       | one score for all, under every label order                                                       |
| label order | scores that follow the labels: each order of the labels gives them other hypotheses, but the     |
|             | scores stay with the labels                                                                      |

The third is measured by the mean Spearman correlation between label orders, once of the scores by label and once of
the scores by hypothesis. An honest backend that is sure has 1 by hypothesis, one that guesses has about 0 in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

__all__ = ["DEGENERACY_SENTENCES", "Degeneracy", "degeneracy_of"]

Degeneracy = Literal["", "unscored", "equal", "label order"]
DEGENERACY_SENTENCES = {
    "": "",
    "unscored": "the backend scored no hypothesis",
    "equal": "the backend gave all hypotheses the same score, so they have no order",
    "label order": "the scores follow the labels under which the hypotheses were shown, not the hypotheses",
}
BY_LABEL = 0.9  # mean correlation of scores by label from which on they may follow the labels


def degeneracy_of(
    by_label: Sequence[Sequence[Float[np.ndarray, "_"]]], by_hypothesis: Sequence[Float[np.ndarray, "group"]]
) -> Degeneracy:
    """What is wrong with the scores of a group; empty if nothing is.

    by_label: for each label order, the scores of each chunk in the order of its labels. by_hypothesis: for each label
    order, the scores of the whole group.
    """
    if not by_label:
        return "unscored"
    if all(np.ptp(chunk) == 0 for order in by_label for chunk in order):
        return "equal"
    agreement = _agreement([np.concatenate([rankdata(chunk) for chunk in order]) for order in by_label])
    follows_labels = agreement >= BY_LABEL and agreement > _agreement(list(map(rankdata, by_hypothesis)))
    return "label order" if follows_labels else ""


def _agreement(ranks: Sequence[Float[np.ndarray, "group"]]) -> float:
    """The mean correlation of all pairs; 0 for ranks without differences, and for a single order."""
    varied = [row for row in ranks if np.ptp(row) > 0]
    pairs = list(combinations(varied, 2))
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])) if pairs else 0.0
