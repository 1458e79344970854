"""A person decides which mined rules are tried."""

import pytest

from agent.exploration.explore import ExplorationSettings, explore
from tests.agent.critique_case import make_agent
from tests.agent.exploration.exploration_run import CASES, HELD_OUT, Miner, propose

ASKING = ExplorationSettings(batch=2, min_gain=-1.0, interrupt_on=("admit_rule",))


def explored(reviewer, settings=ASKING):
    agent = make_agent(Miner())
    report = explore(agent, CASES, HELD_OUT, propose, settings, reviewer=reviewer)
    return agent, report


def test_only_rules_that_the_person_keeps_are_tried():
    asked = []

    def keeps_the_first(rules):
        asked.extend(rules)
        return [rules[0]["id"]]

    agent, report = explored(keeps_the_first)
    assert {rule["id"] for rule in asked} == set(report.mined)
    assert len(asked) > 1
    assert {rule["provenance"]["kind"] for rule in asked} == {"mined"}
    assert report.admitted == (asked[0]["id"],)
    refused = {rule["id"] for rule in asked[1:]}
    assert refused <= set(report.retired)
    reasons = {agent.rules.histories()[rule_id][-1].reason for rule_id in refused}
    assert reasons == {"by a person's review"}


def test_a_person_who_keeps_all_rules_changes_nothing():
    _, reviewed = explored(lambda rules: [rule["id"] for rule in rules])
    _, plain = explored(None, ExplorationSettings(batch=2, min_gain=-1.0))
    assert reviewed == plain


@pytest.mark.parametrize(
    ("reviewer", "reason"),
    [
        (None, "interrupt_on needs a reviewer of rules"),
        (lambda rules: ["unknown"], "a review of rules is a list of ids out of"),
        (lambda rules: "all", "a review of rules is a list of ids out of"),
    ],
)
def test_a_review_without_a_valid_answer_is_refused(reviewer, reason):
    with pytest.raises(ValueError, match=reason):
        explored(reviewer)


def test_an_unknown_point_is_refused():
    with pytest.raises(ValueError, match="interrupt_on of an exploration takes admit_rule, not 'scores'"):
        ExplorationSettings(interrupt_on=("scores",))
