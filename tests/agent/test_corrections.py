"""What a person corrected is found again by later critiques."""

import pytest

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.corrections import learn_corrections
from agent.types import ReviewAnswer
from tests.agent.critique_case import group, make_agent, sample, spoiled_group

RULE = "A knee never bends forwards."


def reviewed(agent: CritiqueAgent):
    answer = ReviewAnswer({2: 8.0}, {2: "The knee bends forwards."}, RULE)
    return agent.critique(sample(), group(spoiled_group()), reviewer=lambda sample, request: answer)


@pytest.fixture
def agent():
    return make_agent(settings=CritiqueSettings(view_size_px=64, interrupt_on=("scores",)))


def test_a_corrected_hypothesis_is_a_prototype_of_similar_photographs(agent):
    critique = reviewed(agent)
    added = learn_corrections(agent, sample(), critique)
    assert len(added) == 2
    ((prototype, cosine),) = agent.prototypes.nearest(agent.image_embedder(sample()), 5)
    before = critique.corrections[0].before[0]
    assert prototype.rationale == f"Score 8 by a person, {before:.0f} by the critic. The knee bends forwards."
    assert (prototype.score, prototype.case_id) == (8.0, sample().id)
    assert cosine == pytest.approx(1.0)
    assert prototype.evidence["joint_limit_excess_deg"] >= 0


def test_a_person_s_rule_waits_in_quarantine(agent):
    learn_corrections(agent, sample(), reviewed(agent))
    (rule,) = [rule for rule in agent.rules.all() if rule.text == RULE]
    assert (rule.state, rule.provenance.kind, rule.provenance.case_id) == (
        "quarantined",
        "person",
        sample().id,
    )
    retrieved = agent.rules.retrieve(RULE, [], 99, frozen=True)
    assert rule.rule_id not in {item.rule.rule_id for item in retrieved}


def test_learning_twice_adds_nothing_and_a_critique_without_corrections_neither(agent):
    critique = reviewed(agent)
    learn_corrections(agent, sample(), critique)
    rules, prototypes = len(agent.rules.all()), len(agent.prototypes)
    learn_corrections(agent, sample(), critique)
    plain = make_agent().critique(sample(), group(spoiled_group()))
    assert learn_corrections(agent, sample(), plain) == []
    assert (len(agent.rules.all()), len(agent.prototypes)) == (rules, prototypes)
