"""Verdicts are cached, and computed again when anything that shaped them has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.agent import CritiqueAgent
from agent.types import GroupCritique
from agent.vlm import EmbeddedCritic
from common.failures import ScoresMissing
from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.files.verdict_cache import CriticVerdict, critique_with_cache
from eval.critics.groups import LabelledGroup
from memory.rule import Provenance, Rule
from tests.agent.critique_case import group, labelled, make_agent, spoiled_group

ERRORS = {name: np.arange(3.0) for name in ERROR_METRICS}
GROUPS = [
    LabelledGroup(labelled(name), group(spoiled_group(seed=row, group=3)), ERRORS)
    for row, name in enumerate("abc")
]


class Counting(EmbeddedCritic):
    """Counts critiques by their first question; with `fails`, gives no score."""

    def __init__(self, revision: str = "1", fails: bool = False) -> None:
        self.revision, self.fails, self.critiques = revision, fails, 0

    def generate(self, parts, schema, seed):
        self.critiques += schema["title"] == "tag"
        if self.fails and schema["title"] == "score":
            raise RuntimeError("no answer")
        return super().generate(parts, schema, seed)


def run(
    path: Path, agent: CritiqueAgent, groups=GROUPS, policy: str = "p", **options
) -> tuple[int, list[CriticVerdict]]:
    """The number of critiques, and all verdicts."""
    before = agent.backend.critiques
    verdicts = critique_with_cache(path, agent, policy, groups, **options)
    return agent.backend.critiques - before, verdicts


def test_a_killed_run_is_resumed_with_the_same_verdicts(tmp_path: Path):
    agent, whole = make_agent(Counting()), tmp_path / "whole.jsonl"

    def dies_at_the_second(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "v" / "agent.jsonl", agent, progress=dies_at_the_second)
    progress_values: list[int] = []
    count, verdicts = run(tmp_path / "v" / "agent.jsonl", agent, progress=progress_values.append)
    assert (count, progress_values) == (1, [1, 2, 3])
    assert (3, verdicts) == run(whole, agent)
    assert (0, verdicts) == run(whole, agent)
    assert len({verdict.scores for verdict in verdicts}) == 3
    assert {item.tool for item in verdicts[0].evidence} >= {"reprojection", "silhouette"}


def test_only_new_groups_are_critiqued(tmp_path: Path):
    agent = make_agent(Counting())
    assert run(tmp_path / "v.jsonl", agent, GROUPS[:1])[0] == 1
    assert run(tmp_path / "v.jsonl", agent)[0] == 2


def test_everything_that_shapes_a_verdict_invalidates_it(tmp_path: Path):
    path, agent, one = tmp_path / "v.jsonl", make_agent(Counting()), GROUPS[:1]
    assert run(path, agent, one)[0] == 1
    assert run(path, make_agent(Counting()), one)[0] == 0
    assert run(path, agent, one, policy="another")[0] == 1
    assert run(path, make_agent(Counting("2")), one)[0] == 1
    settings = replace(agent.settings, max_revisions=0)
    assert run(path, replace(agent, settings=settings), one)[0] == 1
    assert run(path, replace(agent, tools=agent.tools[:2]), one)[0] == 1
    moved = replace(one[0], hypotheses=group(spoiled_group(seed=9, group=3)))
    assert run(path, agent, [moved])[0] == 1
    agent.rules.add([Rule.create("A new rule.", [], Provenance("seed", "a test", None), None)])
    assert run(path, agent, [moved])[0] == 1


def test_a_verdict_without_scores_is_not_cached(tmp_path: Path):
    with pytest.raises(ScoresMissing, match=r"no hypothesis got a score: .*RuntimeError: no answer"):
        run(tmp_path / "v.jsonl", make_agent(Counting(fails=True)), GROUPS[:1])
    assert run(tmp_path / "v.jsonl", make_agent(Counting()), GROUPS[:1])[0] == 1
    count, verdicts = run(tmp_path / "v.jsonl", make_agent(Counting(fails=True)), GROUPS[:2])
    assert (count, verdicts[1].scores) == (1, (None,) * 3)
    assert run(tmp_path / "v.jsonl", make_agent(Counting()), GROUPS[:2])[0] == 1


def test_a_verdict_with_a_lost_question_is_reached_again(tmp_path: Path):
    """One of three label orders was not answered: the scores are all there, and others than those of all three."""

    class Losing(Counting):
        orders = 0

        def generate(self, parts, schema, seed):
            self.orders += schema["title"] == "score"
            if schema["title"] == "score" and self.orders == 2:
                raise TimeoutError("no answer")
            return super().generate(parts, schema, seed)

    losing = make_agent(Losing())
    count, (partial,) = run(tmp_path / "v.jsonl", losing, GROUPS[:1])
    assert (count, None in partial.scores, partial.questions.lost) == (1, False, 1)
    assert run(tmp_path / "v.jsonl", losing, GROUPS[:1])[0] == 1
    assert run(tmp_path / "v.jsonl", losing, GROUPS[:1])[0] == 0


def test_a_verdict_with_a_skipped_tool_is_cached_and_one_with_a_broken_tool_is_not(tmp_path: Path):
    class Broken:
        name, needs = "broken", frozenset()

        def measure(self, case):
            raise RuntimeError("out of order")

    agent, one = make_agent(Counting()), GROUPS[:1]
    blind, broken = replace(agent, detector=None), replace(agent, tools=[*agent.tools, Broken()])
    assert [run(tmp_path / "blind.jsonl", blind, one)[0] for _ in range(2)] == [1, 0]
    assert [run(tmp_path / "broken.jsonl", broken, one)[0] for _ in range(2)] == [1, 1]


def test_a_changed_program_invalidates_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    agent = make_agent(Counting())
    assert run(tmp_path / "v.jsonl", agent, GROUPS[:1])[0] == 1
    monkeypatch.setattr("eval.critics.files.verdict_cache._source_digest", lambda: "another text")
    assert run(tmp_path / "v.jsonl", agent, GROUPS[:1])[0] == 1


def test_no_text_is_cached():
    critique: GroupCritique = make_agent().critique(GROUPS[0].labelled.sample, GROUPS[0].hypotheses)
    assert any(item.sentences for item in critique.evidence)
    kept = CriticVerdict.of(critique)
    assert kept.scores == critique.scores
    assert not any(item.sentences or item.parts for item in kept.evidence)
    assert [item.values for item in kept.evidence] == [item.values for item in critique.evidence]
