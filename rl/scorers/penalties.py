"""Penalties: an agent's scores, less weighted measurements of its own tools.

The weights of an agent's rules are fitted so that its scores rank bodies by their distance from the truth. Measurements
that hardly tell that distance, such as self-penetration, then hardly count, and alignment may make them worse. With
penalties a policy is aligned to both:

    s_i = z(a)_i - sum_k w_k z(m_k)_i          z: less the mean of the group, divided by its standard deviation

    a     the agent's scores; s_i is None where a_i is
    m_k   a metric of the evidence (`agent.types.Evidence`); lower is better for all of them
    w_k   its weight

This is TRL's weighted sum of several rewards, normalised first (GDPO, arXiv 2601.05242). Scores and measurements are
those of one critique, which costs no more than without penalties, and are stored with the group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.agent import CritiqueAgent, usable_scores
from agent.tools.running import metric_of
from agent.types import GroupCritique
from hmr.body.model import Body
from hmr.types import Detector, Hypotheses, Sample
from rl.scorers.identity import hash_of, scorer_digest
from rl.scorers.weighted_sum import ScoreList, weighted_sum

__all__ = ["PenalisedAgent", "parse_penalties"]


@dataclass(frozen=True)
class PenalisedAgent:
    """The agent's scores less the penalties; a `hmr.types.Scorer` and `rl.scorers.rewards.ScoresInParts`."""

    agent: CritiqueAgent
    penalties: Mapping[str, float]  # weights above 0, by metric

    @property
    def name(self) -> str:
        terms = [f"{weight:g}*{metric}" for metric, weight in self.penalties.items()]
        return " - ".join([self.agent.name, *terms])

    @property
    def body(self) -> Body:
        """A search (`rl.preferences.search`) reads images as the critic does."""
        return self.agent.body

    @property
    def detector(self) -> Detector | None:
        return self.agent.detector

    def digest(self) -> str:
        """Content hash of the agent and the weights."""
        return hash_of(self.name, scorer_digest(self.agent))

    def score(self, sample: Sample, hypotheses: Hypotheses) -> ScoreList:
        """In standard deviations of the group. Raises what `score_parts` raises."""
        return self.combine(self.score_parts(sample, hypotheses))

    def score_parts(self, sample: Sample, hypotheses: Hypotheses) -> dict[str, ScoreList]:
        """The agent's scores, then each metric with the opposite sign.

        Raises BackendUnavailable as `CritiqueAgent.score` does, and ValueError for a metric that none of the agent's
        tools measures.
        """
        critique = self.agent.critique(sample, hypotheses)
        scores, measured = usable_scores(critique), self._measured(critique)
        return {self.agent.name: scores} | {
            metric: [None if value is None else -value for value in measured[metric]]
            for metric in self.penalties
        }

    def combine(self, parts: Mapping[str, ScoreList]) -> ScoreList:
        """s_i of the module's docstring."""
        scores = parts[self.agent.name]
        summed = weighted_sum(
            [scores, *(parts[metric] for metric in self.penalties)],
            [1.0, *self.penalties.values()],
            normalize=True,
        )
        return [None if score is None else value for score, value in zip(scores, summed, strict=True)]

    def _measured(self, critique: GroupCritique) -> dict[str, Sequence[float | None]]:
        """Values by metric; of a metric measured twice those of the first detection. A metric of a tool that gave no
        evidence has none."""
        found: dict[str, Sequence[float | None]] = {}
        for item in critique.evidence:
            found.setdefault(item.metric, item.values)
        for metric in self.penalties:
            if metric not in found and not self._may_measure(metric, critique):
                raise ValueError(
                    f"no tool measures {metric!r}; the agent's measure {', '.join(sorted(found))}"
                )
            found.setdefault(metric, [None] * len(critique.scores))
        return found

    def _may_measure(self, metric: str, critique: GroupCritique) -> bool:
        """Whether the metric can be that of a tool that gave no evidence here."""
        if self.agent.settings.mode == "agentic":  # the model decides what is measured
            silent = list(self.agent.tools)
        else:
            missing = {item.tool for item in critique.missing}
            silent = [tool for tool in self.agent.tools if tool.name in missing]
        return any(metric_of(tool) in (metric, None) for tool in silent)


def parse_penalties(pairs: Sequence[str]) -> dict[str, float]:
    """From METRIC=WEIGHT. Raises ValueError for anything else, for a weight that is not above 0, and for a metric that
    is given twice."""
    penalties: dict[str, float] = {}
    for pair in pairs:
        metric, _, text = pair.partition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not (metric and math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"a penalty is METRIC=WEIGHT with a weight above 0, such as self_penetration_mm=0.3, not {pair!r}"
            )
        if metric in penalties:
            raise ValueError(f"the penalty on {metric} is given twice")
        penalties[metric] = weight
    return penalties
