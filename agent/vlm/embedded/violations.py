"""Graded violation of a rule by each hypothesis of a group, on a scale that rules of different units share.

| symbol | meaning                                                                             |
|--------|-------------------------------------------------------------------------------------|
| v_j    | the metric of hypothesis j; lower is better                                         |
| theta  | the rule's threshold                                                                |
| h_j    | the excess, max(0, v_j - theta); for the comparison "<", max(0, theta - v_j)        |
| s_j    | max(standard deviation of v over the other hypotheses, resolution of the unit)      |
| z_j    | (h_j - median h) / s_j, clipped to +-4                                              |

The spread s_j is computed from v and not from h, so a rule that only one hypothesis violates still has a scale. Its
lower bound is the resolution of the unit, so differences within a group of almost equal values stay small. Hypothesis j
is left out, so an outlier does not increase its own scale (externally studentised residuals, as in outlier tests).
Quantiles of twenty values (MAD, quartiles) have the same effect, but vary more and rank worse
(docs/results/superseded.md). Several rules on one metric add up to a piecewise linear penalty (as in MARS, Friedman
1991), which mining makes use of.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

__all__ = ["violation"]

Comparison = Literal[">", "<"]

# Smaller differences are measurement noise; keyed by unit.
RESOLUTION = {"%": 0.2, "px": 1.0, "mm": 3.0, "deg": 0.5, "sd": 0.05, "nat": 0.02, "1": 0.005}
CLIP = 4.0


def violation(
    values: Float[np.ndarray, "group"], comparison: Comparison, threshold: float, unit: str
) -> Float[np.ndarray, "group"]:
    """z of the table above; 0 for a missing value (NaN)."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    excess = np.maximum(0.0, values - threshold if comparison == ">" else threshold - values)
    spread = np.maximum(_spread_of_others(values[known]), RESOLUTION.get(unit, 1e-6))
    z = np.zeros_like(values)
    z[known] = np.clip((excess[known] - np.median(excess[known])) / spread, -CLIP, CLIP)
    return z


def _spread_of_others(values: Float[np.ndarray, "known"]) -> Float[np.ndarray, "known"]:
    """For each value, the standard deviation of the other values; 0 if there are none."""
    others = max(len(values) - 1, 1)
    centred = values - values.mean()
    mean = -centred / others  # of the other values, as all of them sum to 0
    return np.sqrt(np.maximum(((centred**2).sum() - centred**2) / others - mean**2, 0.0))
