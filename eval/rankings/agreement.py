"""Rankings by people as the reference in place of the truth.

The worth of a hypothesis, for one judge, is the share of its comparisons that it won; a tie is half a win. Of a whole
ranking, that is the rank; pairs give it too, if every hypothesis is in some. The worth of a group is the mean over its
judges. Hypotheses that nobody compared are left out.

Judges agree by the mean of Spearman's rho (Kendall's tau-b) between the worth of each two of them, over groups.

Left out: a model of strength such as Bradley-Terry, which would correct for unequal opponents of few pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from jaxtyping import Float

from agent.agreement import group_kendall, group_spearman
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import ScoredGroup
from eval.rankings.file import Order, Rankings

__all__ = ["PEOPLE", "JudgeAgreement", "group_worth", "judge_agreement", "judges_sentence", "people_group"]

PEOPLE = "people"  # the name of the reference, where others are errors in millimetres


@dataclass(frozen=True)
class JudgeAgreement:
    """How many people ranked, and how far they agree; None if no two ranked the same hypotheses of a group."""

    judges: int
    groups: int  # with at least one order
    orders: int
    srcc: Interval | None
    krcc: Interval | None

    def to_json(self) -> dict[str, Any]:
        intervals = {"srcc": self.srcc, "krcc": self.krcc}
        shown = {name: item and [item.mean, item.low, item.high] for name, item in intervals.items()}
        return {"judges": self.judges, "groups": self.groups, "orders": self.orders, **shown}


def judge_worth(orders: Sequence[Order], size: int) -> Float[np.ndarray, " group"]:
    """Of one judge's orders of a group; NaN where a hypothesis was never compared."""
    won, compared = np.zeros(size), np.zeros(size)
    for order in orders:
        _add_comparisons(order, won, compared)
    return np.divide(won, compared, out=np.full(size, np.nan), where=compared > 0)


def _add_comparisons(
    order: Order, won: Float[np.ndarray, " group"], compared: Float[np.ndarray, " group"]
) -> None:
    for equal in order.order:
        for first, second in combinations(equal, 2):
            won[[first, second]] += 0.5
            compared[[first, second]] += 1
    for (better_place, better), (place, worse) in product(enumerate(order.order), repeat=2):
        if better_place < place:
            for first, second in product(better, worse):
                won[first] += 1
                compared[[first, second]] += 1


def group_worth(rankings: Rankings, group: str) -> dict[str, Float[np.ndarray, " group"]]:
    """By judge."""
    size = rankings.groups[group].size
    orders = [order for order in rankings.orders if order.group == group]
    judges = dict.fromkeys(order.judge for order in orders)
    return {judge: judge_worth([order for order in orders if order.judge == judge], size) for judge in judges}


def people_group(
    rankings: Rankings, group: str, sample_id: str, scores: Sequence[float | None]
) -> ScoredGroup:
    """A group with the people's preference as the error, 1 minus the mean worth. Scores of hypotheses that nobody
    compared are None."""
    worth = np.stack(list(group_worth(rankings, group).values()))
    known = (~np.isnan(worth)).sum(axis=0)
    mean = np.divide(np.nansum(worth, axis=0), known, out=np.zeros(len(known)), where=known > 0)
    compared = tuple(score if known[index] else None for index, score in enumerate(scores))
    return ScoredGroup(sample_id, compared, {PEOPLE: 1.0 - mean})


def judge_agreement(rankings: Rankings) -> JudgeAgreement:
    ranked = dict.fromkeys(order.group for order in rankings.orders)
    worth = [list(group_worth(rankings, group).values()) for group in ranked]
    return JudgeAgreement(
        judges=len({order.judge for order in rankings.orders}),
        groups=len(ranked),
        orders=len(rankings.orders),
        srcc=_between(worth, group_spearman),
        krcc=_between(worth, group_kendall),
    )


def judges_sentence(found: JudgeAgreement) -> str:
    people = (
        f"{found.judges} judge{'s' * (found.judges != 1)}, {found.orders} orders of {found.groups} groups"
    )
    if found.srcc is None or found.krcc is None:
        return f"{people}; no two judges ranked the same hypotheses, so their agreement is unknown"
    values = [f"{item.mean:+.3f} [{item.low:+.3f}, {item.high:+.3f}]" for item in (found.srcc, found.krcc)]
    return f"{people}; agreement between two judges: SRCC {values[0]}, KRCC {values[1]}"


def _between(
    groups: Sequence[Sequence[Float[np.ndarray, " group"]]],
    statistic: Callable[[Sequence[float | None], Sequence[float]], float | None],
) -> Interval | None:
    means = []
    for judges in groups:
        found = [_pair(first, second, statistic) for first, second in combinations(judges, 2)]
        known = [value for value in found if value is not None]
        means.append(np.mean(known) if known else np.nan)
    return bootstrap_mean(np.array([means])) if means else None


def _pair(
    first: Float[np.ndarray, " group"],
    second: Float[np.ndarray, " group"],
    statistic: Callable[[Sequence[float | None], Sequence[float]], float | None],
) -> float | None:
    """Over the hypotheses that both compared."""
    both = ~np.isnan(first + second)
    return statistic(first[both].tolist(), (1 - second[both]).tolist())
