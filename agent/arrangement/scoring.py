"""The embedded score of an arrangement: evidence -> a score from 0 to 100 and a comment, without a language model.

    score = 100 exp(-sum of penalties / SOFTNESS)

A penalty grows with the value and is bounded or nearly so, so that one measurement that is wrong about a photograph (a
child, a jump, a missed mask) does not decide alone: t(value) = 2 log(1 + value^2 / 4), the negative logarithm of a
Student density, for values in standard deviations, and s(value) = BOUND (1 - exp(-value / (BOUND scale))) for others.
What could not be measured has no penalty. The scales were set on pairs of seed 1 of `benchmarks.critic.arrangements`,
the results are of other seeds (docs/results/arrangements.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agent.arrangement.types import ArrangementEvidence, ArrangementVerdict

__all__ = ["PENALTIES", "penalty", "score_evidence"]

SOFTNESS = 5.0
BOUND = 10.0
NOTHING_WRONG = "Nothing between the people is implausible."


def _student(value: float) -> float:
    return 2 * math.log1p(value * value / 4)


def _saturating(scale: float) -> Callable[[float], float]:
    return lambda value: BOUND * (1 - math.exp(-value / (BOUND * scale)))


PENALTIES: dict[str, Callable[[float], float]] = {
    "interpenetration_mm": _saturating(30.0),
    "occlusion_order_percent": _saturating(25.0),
    "common_ground_sd": _student,
    "common_scale_sd": _student,
}


def penalty(item: ArrangementEvidence) -> float:
    """0 for evidence without a value, and for metrics of other tools, whose scale is not known."""
    known = PENALTIES.get(item.metric)
    return 0.0 if known is None or item.value is None else known(item.value)


def score_evidence(evidence: Sequence[ArrangementEvidence]) -> ArrangementVerdict:
    """An `ArrangementScorer`."""
    ranked = sorted(evidence, key=penalty, reverse=True)
    total = sum(map(penalty, ranked))
    faults = [item.sentence for item in ranked if item.people]
    return ArrangementVerdict(100 * math.exp(-total / SOFTNESS), " ".join(faults) or NOTHING_WRONG)
