"""Penalties: a worked example over a real agent, missing values, and the words that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from agent.agent import CritiqueAgent
from agent.tools import load_tools
from agent.types import BackendUnavailable, Case, Evidence
from agent.vlm import EmbeddedCritic
from agent.vlm.protocol import Reply
from hmr.body.model import load_body
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Scorer
from rl.preferences.search import SearchSettings, search_for
from rl.scorers.identity import scorer_digest
from rl.scorers.penalties import PenalisedAgent, parse_penalties
from rl.scorers.rewards import RewardMix, ScoresInParts
from tests.agent.critique_case import TOOLS, group, make_agent, sample, spoiled_group

CONSENSUS, LIMITS = "group_consensus_mm", "joint_limit_excess_deg"


def penalised(weights: Mapping[str, float], agent: CritiqueAgent | None = None) -> PenalisedAgent:
    return PenalisedAgent(agent or make_agent(), weights)


def z(values: list[float | None]) -> np.ndarray:
    known = np.array(values, dtype=float)
    return (known - known.mean()) / known.std()


def test_scores_are_those_of_the_agent_less_the_weighted_measurements() -> None:
    agent, hypotheses = make_agent(), group(spoiled_group())
    critique = agent.critique(sample(), hypotheses)
    measured = {item.metric: list(item.values) for item in critique.evidence}
    scorer = penalised({CONSENSUS: 0.5, LIMITS: 2.0}, agent)
    assert isinstance(scorer, Scorer)
    assert isinstance(scorer, ScoresInParts)
    expected = z(list(critique.scores)) - 0.5 * z(measured[CONSENSUS]) - 2 * z(measured[LIMITS])
    assert scorer.score(sample(), hypotheses) == pytest.approx(expected.tolist())
    parts = scorer.score_parts(sample(), hypotheses)
    assert list(parts) == [agent.name, CONSENSUS, LIMITS]
    assert parts[agent.name] == list(critique.scores)
    assert scorer.name == f"{agent.name} - 0.5*{CONSENSUS} - 2*{LIMITS}"


def test_what_the_agent_could_not_score_has_no_score_and_what_no_tool_measured_counts_as_the_mean() -> None:
    scorer = penalised({LIMITS: 1.0})
    parts = {scorer.agent.name: [10.0, None, 30.0], LIMITS: [-1.0, -2.0, None]}
    # measured: +1 and -1 deviation from their mean; the third has that mean
    assert scorer.combine(parts) == [pytest.approx(-1 + 1), None, pytest.approx(1 + 0)]


def test_a_search_reads_images_as_the_agent_does(tiny_policy: DiffusionPolicy) -> None:
    scorer = penalised({LIMITS: 1.0})
    search = search_for(tiny_policy, scorer, SearchSettings.of_size(4), load_body())
    assert search.detector is scorer.agent.detector
    assert search.body is scorer.agent.body


def test_penalties_are_a_part_of_a_mix() -> None:
    scorer, hypotheses = penalised({LIMITS: 1.0}), group(spoiled_group())
    mixed = RewardMix([scorer], [2.0]).score(sample(), hypotheses)
    assert mixed == pytest.approx(
        [2 * value for value in scorer.score(sample(), hypotheses) if value is not None]
    )


class Broken:
    """A tool that always fails."""

    name = "joint_limits"
    metric = LIMITS
    needs = frozenset()

    def measure(self, case: Case) -> Evidence:
        raise RuntimeError("broken")


def test_a_tool_that_failed_is_no_mistake_but_a_metric_of_no_tool_is() -> None:
    without_limits = [tool for tool in load_tools(TOOLS) if tool.name != "joint_limits"]
    broken = make_agent(tools=[*without_limits, Broken()])
    hypotheses = group(spoiled_group())
    parts = penalised({LIMITS: 1.0}, broken).score_parts(sample(), hypotheses)
    assert parts[LIMITS] == [None] * len(hypotheses)
    with pytest.raises(
        ValueError, match=r"no tool measures 'mistyped_mm'; the agent's measure group_consensus_mm, "
    ):
        penalised({"mistyped_mm": 1.0}).score(sample(), hypotheses)
    with pytest.raises(
        ValueError, match="no tool measures 'mistyped_mm'"
    ):  # a tool of another metric is missing
        penalised({"mistyped_mm": 1.0}, broken).score(sample(), hypotheses)


def test_a_backend_that_is_unavailable_stops_the_run() -> None:
    class Down(EmbeddedCritic):
        def generate(self, *question: object) -> Reply:
            raise ConnectionError("down")

    with pytest.raises(BackendUnavailable):
        penalised({LIMITS: 1.0}, make_agent(Down())).score(sample(), group(spoiled_group()))


def test_the_digest_depends_on_the_agent_and_on_the_weights() -> None:
    agent = make_agent()
    other = replace(agent, settings=replace(agent.settings, max_revisions=0))
    digests = {
        scorer_digest(agent),
        scorer_digest(penalised({LIMITS: 1.0}, agent)),
        scorer_digest(penalised({LIMITS: 1.5}, agent)),
        scorer_digest(penalised({CONSENSUS: 1.0}, agent)),
        scorer_digest(penalised({LIMITS: 1.0}, other)),
    }
    assert len(digests) == 5
    assert scorer_digest(penalised({LIMITS: 1.0}, agent)) in digests


@pytest.mark.parametrize(
    "words",
    [["a"], ["a="], ["=1"], ["a=one"], ["a=nan"], ["a=inf"], ["a=0"], ["a=-1"], ["a=1", "a=2"], ["a=1=2"]],
)
def test_a_penalty_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="penalty"):
        parse_penalties(words)
    assert parse_penalties(["a_mm=0.5", "b=2"]) == {"a_mm": 0.5, "b": 2.0}
