"""Agreement of scores with the truth: correlation of scores with negative errors, per group.

| here             | symbol | reduction                                                              |
|------------------|--------|------------------------------------------------------------------------|
| `group_spearman` | SRCC   | Spearman's rho within a group; `mean_agreement` averages over groups   |
| `group_kendall`  | KRCC   | Kendall's tau-b within a group; averaged likewise                      |
| `pooled_pearson` | PLCC   | Pearson's r over all hypotheses, each group standardised beforehand    |

Hypotheses whose score is None are left out. The result is None if fewer than `MIN_SCORED` hypotheses have a score, or
if all scores or all errors are equal. A value of 1 means that the best score has the lowest error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

__all__ = ["Agreement", "group_kendall", "group_spearman", "mean_agreement", "pooled_pearson"]

MIN_SCORED = 3

Scores = Sequence[float | None]
Errors = Sequence[float]


@dataclass(frozen=True)
class Agreement:
    """A critic's agreement with the truth over many groups; None if it is undefined for every group."""

    srcc: float | None
    krcc: float | None
    plcc: float | None
    none_rate: float  # share of hypotheses without a score


def group_spearman(scores: Scores, errors_mm: Errors) -> float | None:
    """Spearman's rho between scores and negative errors of one group."""
    return _correlate(stats.spearmanr, scores, errors_mm)


def group_kendall(scores: Scores, errors_mm: Errors) -> float | None:
    """Kendall's tau-b between scores and negative errors of one group."""
    return _correlate(stats.kendalltau, scores, errors_mm)


def pooled_pearson(groups: Sequence[tuple[Scores, Errors]]) -> float | None:
    """Pearson's r over all groups' hypotheses, scores and errors standardised within each group."""
    known = [pair for scores, errors_mm in groups if (pair := _known(scores, errors_mm)) is not None]
    if not known:
        return None
    score = np.concatenate([_standardised(scores) for scores, _ in known])
    error = np.concatenate([_standardised(errors_mm) for _, errors_mm in known])
    return float(-np.corrcoef(score, error)[0, 1])


def mean_agreement(groups: Sequence[tuple[Scores, Errors]]) -> Agreement:
    """SRCC and KRCC averaged over groups, PLCC pooled, and the share of missing scores."""
    hypotheses = [score for scores, _ in groups for score in scores]
    return Agreement(
        srcc=_mean([group_spearman(scores, errors_mm) for scores, errors_mm in groups]),
        krcc=_mean([group_kendall(scores, errors_mm) for scores, errors_mm in groups]),
        plcc=pooled_pearson(groups),
        none_rate=sum(score is None for score in hypotheses) / len(hypotheses) if hypotheses else 0.0,
    )


def _correlate(statistic: Callable[..., Any], scores: Scores, errors_mm: Errors) -> float | None:
    known = _known(scores, errors_mm)
    return None if known is None else float(-statistic(*known).statistic)


def _known(
    scores: Scores, errors_mm: Errors
) -> tuple[Float[np.ndarray, "known"], Float[np.ndarray, "known"]] | None:
    pairs = [(score, error) for score, error in zip(scores, errors_mm, strict=True) if score is not None]
    if len(pairs) < MIN_SCORED:
        return None
    score, error = np.array(pairs, dtype=float).T
    return None if np.ptp(score) == 0 or np.ptp(error) == 0 else (score, error)


def _standardised(values: Float[np.ndarray, "known"]) -> Float[np.ndarray, "known"]:
    return (values - values.mean()) / values.std()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
