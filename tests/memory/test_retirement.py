"""Retirement of rules that fail too often, with worked probabilities."""

from __future__ import annotations

import pytest

from memory.retirement import RetirementPolicy, failing_probability, retire_failing, retire_fruitless
from memory.rule import Provenance, Rule
from memory.rule_memory import RuleMemory
from tests.memory.conftest import seed

GOOD, BAD = seed("knee"), seed("foot")
MINED = Rule.create("hand", ["arm"], Provenance("mined", "test", "case"))


@pytest.fixture
def rules(store, words) -> RuleMemory:
    rules = RuleMemory(store, words)
    rules.add([GOOD, BAD, MINED])
    return rules


def record(rules: RuleMemory, rule: Rule, right: int, wrong: int) -> None:
    for number in range(right + wrong):
        rules.record_case(f"{rule.text}/{right}/{wrong}/{number}", [rule.rule_id], number < right)


def states(rules: RuleMemory) -> list[str]:
    return [rule.state for rule in rules.all()]


@pytest.mark.parametrize(
    ("uses", "successes", "rate", "probability"),
    [
        (0, 0, 0.3, 0.3),  # nothing known: the prior is uniform
        (2, 0, 0.5, 0.875),  # Beta(1, 3): 1 - .5^3
        (12, 0, 0.25, 1 - 0.75**13),  # Beta(1, 13)
        (1, 1, 0.5, 0.25),  # Beta(2, 1): .5^2
    ],
)
def test_worked_probabilities(uses, successes, rate, probability):
    assert failing_probability(uses, successes, rate) == pytest.approx(probability)


def test_a_rule_that_fails_while_others_succeed_retires_with_a_reason(rules):
    record(rules, GOOD, 12, 4)
    record(rules, BAD, 0, 16)
    # the rate of all uses is 12 / 32 = .375, the bar .1875; Beta(1, 17) lies below it with 1 - .8125^17 = .971
    assert retire_failing(rules) == [BAD.rule_id]
    assert states(rules) == ["admitted", "retired", "quarantined"]
    reason = rules.history(BAD.rule_id)[-1].reason
    assert reason == "right in 0 of 16 cases: below 0.19, 0.5 of all rules' rate, with probability 0.971"
    assert retire_failing(rules) == []


def test_few_failures_do_not_retire_a_rule(rules):
    record(rules, GOOD, 16, 0)
    record(rules, BAD, 0, 7)  # one short of the least number of uses
    assert retire_failing(rules) == []
    assert retire_failing(rules, RetirementPolicy(least_uses=7)) == [BAD.rule_id]


def test_if_every_rule_fails_none_retires(rules):
    record(rules, GOOD, 0, 40)
    record(rules, BAD, 0, 40)
    assert retire_failing(rules) == []


def test_the_failing_probability_rises_with_failures():
    probabilities = [failing_probability(uses, 3, 0.3) for uses in range(3, 40)]
    assert probabilities == sorted(probabilities)


def test_a_rule_that_no_trial_admitted_retires(rules):
    for name in ("a", "a", "b"):  # the same cases twice are one trial
        rules.set_state(MINED.rule_id, "quarantined", "no gain", -0.001, name)
    assert retire_fruitless(rules) == []
    rules.set_state(MINED.rule_id, "quarantined", "no gain", 0.0, "c")
    assert retire_fruitless(rules) == [MINED.rule_id]
    assert rules.history(MINED.rule_id)[-1].reason == "no gain in 3 trials"


def test_a_successful_trial_does_not_count_as_a_failure(rules):
    rules.set_state(MINED.rule_id, "admitted", "rho .40 to .43", 0.03, "a")
    rules.set_state(MINED.rule_id, "quarantined", "as elsewhere")
    for name in ("b", "c"):
        rules.set_state(MINED.rule_id, "quarantined", "no gain", 0.0, name)
    assert retire_fruitless(rules) == []
