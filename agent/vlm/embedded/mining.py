"""Mines rules from ranking errors: metrics and thresholds that separate over-ranked from under-ranked hypotheses.

For every metric and every threshold between its values, Youden's J (Cancer 3, 1950) is the share of over-ranked
hypotheses above the threshold minus the share of under-ranked ones. The best thresholds of the two best metrics become
rules if J is large enough and there are enough hypotheses. The weight is the log odds ratio, with 1/2 added to each
count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["mine"]

MIN_COUNT = 8  # over-ranked and under-ranked hypotheses, each
MIN_J = 0.25
MAX_RULES = 2
MAX_WEIGHT = 3.0


def mine(discrepancy: dict[str, Any]) -> list[dict[str, Any]]:
    """At most two rules from `{"tags": [...], "metrics": {metric: {"over": [...], "under": [...]}}}`."""
    found = []
    for metric, groups in discrepancy["metrics"].items():
        over, under = np.array(groups["over"], float), np.array(groups["under"], float)
        if min(len(over), len(under)) >= MIN_COUNT:
            found.append((*_best_threshold(over, under), metric))
    found.sort(reverse=True)
    return [_rule(theta, metric, discrepancy) for j, theta, metric in found[:MAX_RULES] if j >= MIN_J]


def _best_threshold(
    over: Float[np.ndarray, "over"], under: Float[np.ndarray, "under"]
) -> tuple[float, float]:
    thresholds = np.unique(np.concatenate([over, under]))[:-1]
    if not len(thresholds):
        return 0.0, 0.0
    youden = (over[:, None] > thresholds).mean(axis=0) - (under[:, None] > thresholds).mean(axis=0)
    best = int(youden.argmax())
    return float(youden[best]), float(thresholds[best])


def _rule(theta: float, metric: str, discrepancy: dict[str, Any]) -> dict[str, Any]:
    groups = discrepancy["metrics"][metric]
    theta = float(f"{theta:.3g}")
    over, under = np.array(groups["over"]) > theta, np.array(groups["under"]) > theta
    odds = (over.sum() + 0.5) * ((~under).sum() + 0.5) / (((~over).sum() + 0.5) * (under.sum() + 0.5))
    return {
        "text": f"Distrust a hypothesis whose {metric} exceeds {theta:g}: such ones were ranked too high.",
        "tags": discrepancy["tags"],
        "metric": metric,
        "comparison": ">",
        "threshold": theta,
        "weight": round(min(MAX_WEIGHT, max(0.0, math.log(odds))), 3),
    }
