"""The exploration phase, end to end on a handful of cases."""

import pytest

from agent.explore import ExplorationSettings, explore
from agent.seed_rules import load_seed_rules
from hmr.types import Hypotheses, Sample
from memory.prototypes import PrototypeMemory
from memory.rules import RuleMemory
from memory.store import FrozenMemoryError, MemoryStore
from tests.agent.critique_case import HashEmbedder, MeanColor, group, labelled, make_agent, spoiled_group

CASES = [labelled(f"explore-{number}") for number in range(3)]
HELD_OUT = [labelled("admit-0")]


def propose(sample: Sample) -> Hypotheses:
    return group(spoiled_group(seed=len(sample.id) + sum(map(ord, sample.id))))


def test_exploration_counts_rules_writes_prototypes_and_ranks_what_it_can_see():
    agent, seen = make_agent(), []
    report = explore(agent, CASES, HELD_OUT, propose, ExplorationSettings(batch=2), seen.append)
    assert (report.cases, report.skipped) == (3, 0)
    assert report.srcc > 0.5
    assert [progress.done for progress in seen] == [1, 2, 3]
    assert len(agent.prototypes) == 3
    prototype = agent.prototypes.all()[0]
    assert prototype.weights["reprojection_percent_of_box"] > 0.5
    assert prototype.rationale.startswith("Truly number ")
    used = [rule for rule in agent.rules.all() if rule.uses]
    assert used
    assert max(rule.successes for rule in used) == 3


def test_exploring_again_counts_nothing_twice():
    agent = make_agent()
    explore(agent, CASES[:2], HELD_OUT, propose)
    rules, prototypes = agent.rules.all(), agent.prototypes.all()
    report = explore(agent, CASES[:2], HELD_OUT, propose)
    assert (report.cases, report.skipped) == (0, 2)
    assert agent.rules.all() == rules
    assert agent.prototypes.all() == prototypes


def test_a_killed_exploration_goes_on_with_what_is_left():
    agent = make_agent()

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(agent, CASES, HELD_OUT, propose, on_case=stop)
    report = explore(agent, CASES, HELD_OUT, propose)
    assert (report.cases, report.skipped) == (2, 1)


def test_a_frozen_memory_refuses_exploration(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        RuleMemory(store, HashEmbedder()).add(load_seed_rules())
    with MemoryStore(path, frozen=True) as store:
        memories = {
            "rules": RuleMemory(store, HashEmbedder()),
            "prototypes": PrototypeMemory(store, MeanColor.dim, MeanColor.name),
        }
        with pytest.raises(FrozenMemoryError):
            explore(make_agent(**memories), CASES[:1], [], propose)
