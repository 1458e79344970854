"""Fits the weights of rules on groups with known errors.

| here       | symbol | meaning                                                             |
|------------|--------|---------------------------------------------------------------------|
| violations | z_rj   | graded violation of rule r by hypothesis j (`agent/vlm/embedded/violations.py`)  |
| price      | p_j    | sum_r w_r z_rj, w_r >= 0                                            |
| loss       | L(w)   | mean over pairs e_i + MARGIN < e_j of log(1 + exp(p_i - p_j))       |
|            |        | + (RIDGE / 2) |w|^2                                                 |

The pairwise logistic loss is RankNet's (Burges et al., ICML 2005) with a linear model: convex, so one
L-BFGS-B run finds its minimum. Weights are non-negative because lower values of evidence are better by contract. The
small ridge term makes the minimum unique, for example for two rules on one metric. A penalty on the distance from the
initial, hand-written weights reduced the rank correlation by .01 on lab groups and .02 on wild ones
(docs/results/superseded.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["fit_weights"]

MARGIN_MM = 5.0  # pairs whose errors differ by less are ignored
RIDGE = 0.005


def fit_weights(
    violations: Sequence[Float[np.ndarray, "rules _"]],
    errors_mm: Sequence[Float[np.ndarray, "_"]],
    start: Float[np.ndarray, "rules"],
) -> Float[np.ndarray, "rules"]:
    """The weights that minimise L; `start` if no pair differs by the margin."""
    gaps = np.concatenate(
        [_pair_gaps(group, errors) for group, errors in zip(violations, errors_mm, strict=True)], axis=0
    )
    if not len(gaps):
        return start

    def loss(weights: Float[np.ndarray, "rules"]) -> tuple[float, Float[np.ndarray, "rules"]]:
        margin = gaps @ weights  # price of the worse hypothesis minus price of the better one
        slope = -expit(-margin)
        value = np.logaddexp(0, -margin).mean() + RIDGE / 2 * (weights**2).sum()
        return float(value), gaps.T @ slope / len(gaps) + RIDGE * weights

    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x


def _pair_gaps(
    violations: Float[np.ndarray, "rules group"], errors_mm: Float[np.ndarray, "group"]
) -> Float[np.ndarray, "pairs rules"]:
    better, worse = np.nonzero(errors_mm[:, None] + MARGIN_MM < errors_mm[None, :])
    return (violations[:, worse] - violations[:, better]).T
