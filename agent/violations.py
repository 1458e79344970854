"""How far each hypothesis of a group breaks a rule, on a scale that rules of different units share.

| variable  | meaning                                                                                |
|-----------|----------------------------------------------------------------------------------------|
| v_j       | the metric of hypothesis j; lower is better                                            |
| theta     | the rule's threshold                                                                   |
| h_j       | max(0, v_j - theta): what exceeds it (for the comparison "<", max(0, theta - v_j))      |
| s         | max(1.4826 MAD(v), half the interquartile range, resolution): the group's own spread   |
| z_j       | (h_j - median h) / s, clipped to +-4: graded, centred, robust                          |

The spread is taken from v and not from h, so that a rule that only one hypothesis breaks still has a scale;
its floor is what a unit can resolve, so that a group of near-equals is not blown up into a ranking of noise.
Several rules on one metric add up to a piecewise linear price (as in MARS, Friedman 1991), which is what
mining makes use of.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

__all__ = ["RESOLUTION", "Comparison", "violation"]

Comparison = Literal[">", "<"]

RESOLUTION = {
    "%": 0.2,
    "px": 1.0,
    "mm": 3.0,
    "deg": 0.5,
    "sd": 0.05,
    "nat": 0.02,
    "1": 0.005,
}  # below these: measuring noise
CLIP = 4.0


def violation(
    values: Float[np.ndarray, "group"], comparison: Comparison, threshold: float, unit: str
) -> Float[np.ndarray, "group"]:
    """z of the table above; 0 where the value is missing (NaN), and everywhere if all are."""
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    excess = np.maximum(0.0, values - threshold if comparison == ">" else threshold - values)
    middle = np.median(excess[known])
    z = np.clip((excess - middle) / _spread(values[known], unit), -CLIP, CLIP)
    return np.where(known, z, 0.0)


def _spread(values: Float[np.ndarray, "known"], unit: str) -> float:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    mad = 1.4826 * float(np.median(np.abs(values - median)))
    return max(mad, float(high - low) / 2, RESOLUTION.get(unit, 1e-6))
