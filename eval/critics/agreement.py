"""Rank agreement of a critic with the true errors, with 95 % intervals.

| here   | over groups                                                                     |
|--------|---------------------------------------------------------------------------------|
| `srcc` | mean of Spearman's rho between scores and negative errors                       |
| `krcc` | mean of Kendall's tau-b                                                         |
| `plcc` | Pearson's r after standardising each group: mean of r_g weighted by its size n_g |

The correlations are those of `agent.agreement`; the bootstrap resamples groups, one per image. Groups with fewer than
three scores, or with equal scores or errors, have no correlation and are left out: a critic that gives no scores for
hard groups gets a better mean, which `groups_used` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from agent.agreement import group_kendall, group_spearman, pooled_pearson
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import ScoredGroup

__all__ = ["CriticAgreement", "by_group", "critic_agreement", "short_name"]


@dataclass(frozen=True)
class CriticAgreement:
    """Agreement with one error metric; None if no group has a correlation. 1 is perfect, 0 is chance."""

    metric: str
    srcc: Interval | None
    krcc: Interval | None
    plcc: Interval | None
    groups_used: int
    groups: int
    none_rate: float  # share of hypotheses without a score

    def summary(self) -> dict[str, float | None]:
        """The `critic` entry of `metrics.json`."""
        values = {"srcc": self.srcc, "krcc": self.krcc, "plcc": self.plcc}
        return {name: None if interval is None else interval.mean for name, interval in values.items()}


def critic_agreement(
    groups: Sequence[ScoredGroup], metric: str = "mpjpe_mm", *, seed: int = 0
) -> CriticAgreement:
    """Agreement of the groups' scores with their errors in `metric`. Raises ValueError without any group."""
    if not groups:
        raise ValueError("agreement needs at least one scored group")
    sizes = np.array([[sum(score is not None for score in group.scores) for group in groups]], dtype=float)
    rho = by_group(groups, metric, group_spearman)
    missing = [score is None for group in groups for score in group.scores]
    return CriticAgreement(
        metric,
        srcc=bootstrap_mean(rho, seed=seed),
        krcc=bootstrap_mean(by_group(groups, metric, group_kendall), seed=seed),
        plcc=bootstrap_mean(by_group(groups, metric, _group_pearson), weights=sizes, seed=seed),
        groups_used=int((~np.isnan(rho)).sum()),
        groups=len(groups),
        none_rate=sum(missing) / len(missing),
    )


def _group_pearson(scores: Sequence[float | None], errors_mm: Sequence[float]) -> float | None:
    return pooled_pearson([(scores, errors_mm)])


def by_group(
    groups: Sequence[ScoredGroup],
    metric: str,
    statistic: Callable[[Sequence[float | None], Sequence[float]], float | None],
) -> Float[np.ndarray, "1 groups"]:
    """The statistic of every group, NaN where a group has none, as the table that `bootstrap_mean` takes."""
    values = [statistic(group.scores, group.errors_mm[metric].tolist()) for group in groups]
    return np.array([[np.nan if value is None else value for value in values]])


def short_name(metric: str) -> str:
    """Of an error metric, without its unit, as in JSON and tables."""
    return metric.removesuffix("_mm")
