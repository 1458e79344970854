"""How far each hypothesis of a group breaks a rule, on a scale that rules of different units share.

| variable  | meaning                                                                                |
|-----------|----------------------------------------------------------------------------------------|
| v_j       | the metric of hypothesis j; lower is better                                            |
| theta     | the rule's threshold                                                                   |
| h_j       | max(0, v_j - theta): what exceeds it (for the comparison "<", max(0, theta - v_j))      |
| s_j       | max(standard deviation of v over the others, resolution): the group's own spread       |
| z_j       | (h_j - median h) / s_j, clipped to +-4: graded, centred, robust                        |

The spread is taken from v and not from h, so that a rule that only one hypothesis breaks still has a scale; its floor
is what a unit can resolve, so that a group of near-equals is not blown up into a ranking of noise. It leaves
hypothesis j itself out, so that what stands far off does not make itself look near (externally studentised, as
outliers are tested); quantiles of twenty values (MAD, quartiles) do that as well, but scatter more and rank worse
(docs/critics.md).
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
    spread = np.maximum(_spread_of_others(values[known]), RESOLUTION.get(unit, 1e-6))
    z = np.zeros_like(values)
    z[known] = np.clip((excess[known] - middle) / spread, -CLIP, CLIP)
    return z


def _spread_of_others(values: Float[np.ndarray, "known"]) -> Float[np.ndarray, "known"]:
    """Standard deviation of the values without each one in turn; 0 for a value that has no others."""
    others = max(len(values) - 1, 1)
    about = values - values.mean()
    mean = -about / others  # of the others: all together sum to 0
    return np.sqrt(np.maximum(((about**2).sum() - about**2) / others - mean**2, 0.0))
