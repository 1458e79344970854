"""95 % bootstrap intervals (Efron and Tibshirani, 1993, chapter 13: the percentile interval).

Values are a table of seeds by images. A resample draws seeds and images independently with replacement and takes all
their combinations, because the values of an image are correlated over seeds, and those of a seed over images. For a
paired difference of two policies, subtract the tables first (`a - b`); for a ratio of two means, such as a difference
in per cent, numerator and denominator are resampled together. With three seeds the seeds' part of the interval
is a rough estimate; without it the interval would be too narrow.

Left out: BCa corrections, whose acceleration needs a jackknife over both axes; the mean of a hundred images is nearly
symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["MIN_IMAGES", "Interval", "bootstrap_mean", "bootstrap_ratio", "difference_interval"]

LEVEL = 0.95
RESAMPLES = 4000
MIN_IMAGES = 10  # of a difference with an interval


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: Float[np.ndarray, "seeds images"],
    *,
    weights: Float[np.ndarray, "seeds images"] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """The (weighted) mean of the values that are not NaN, and its interval; None if all are NaN."""
    mass = np.ones(values.shape) if weights is None else weights
    return bootstrap_ratio(values * mass, mass, seed=seed, resamples=resamples)


def difference_interval(differences: Float[np.ndarray, "seeds images"], *, seed: int = 0) -> Interval | None:
    """The mean of paired differences and its interval, as `bootstrap_mean`; None below `MIN_IMAGES` images with one.

    Resamples of a few values of one sign never have a mean of the other sign (of one value they have no width), so the
    interval would exclude zero whatever the noise.
    """
    images = int((~np.isnan(differences)).any(axis=0).sum())
    return None if images < MIN_IMAGES else bootstrap_mean(differences, seed=seed)


def bootstrap_ratio(
    numerator: Float[np.ndarray, "seeds images"],
    denominator: Float[np.ndarray, "seeds images"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """mean(numerator) / mean(denominator) and its interval, over the cells where neither is NaN. None if there is no
    such cell or the mean of the denominators is not above 0; a resample of which that is true is left out."""
    known = ~(np.isnan(numerator) | np.isnan(denominator))
    weighted, mass = np.where(known, numerator, 0.0), np.where(known, denominator, 0.0)
    if mass.sum() <= 0:
        return None
    rng = np.random.default_rng(seed)
    num_seeds, num_images = known.shape
    seed_counts = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    image_counts = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    totals = ((seed_counts @ weighted) * image_counts).sum(axis=1)
    masses = ((seed_counts @ mass) * image_counts).sum(axis=1)
    means = totals[masses > 0] / masses[masses > 0]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(weighted.sum() / mass.sum()), float(low), float(high))
