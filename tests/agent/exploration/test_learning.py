"""Learning from cases with known truth: weights, rules, and their admission."""

import json

import numpy as np
import pytest

from agent.context import CritiqueSettings
from agent.exploration.learning import (
    Explored,
    fit_rule_weights,
    metric_agreement,
    mine_rules,
)
from agent.exploration.trials import admit_quarantined
from agent.exploration.weight_fitting import fit_weights
from agent.prompts.question import Brief
from agent.vlm import EmbeddedCritic
from agent.vlm.protocol import Reply
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.transfer.exchange import snapshot
from memory.transfer.merge import merge_document
from tests.agent.critique_case import HashEmbedder

GROUP = 8
SETTINGS = CritiqueSettings(permutations=2)
GAIN = 0.002


def case(number: int, rules: list | None = None) -> Explored:
    """Metric `exact` is the error, `noise` is not; the scores follow `noise`."""
    rng = np.random.default_rng(number)
    errors, noise = rng.uniform(20, 200, GROUP), rng.uniform(20, 200, GROUP)
    evidence = [
        {
            "tool": name,
            "metric": f"{name}_mm",
            "unit": "mm",
            "values": values.tolist(),
            "parts": [[]] * GROUP,
            "sentences": [""] * GROUP,
        }
        for name, values in (("exact", errors), ("noise", noise))
    ]
    brief = Brief(evidence, rules or [], [], ["pose:upright"])
    return Explored(f"case-{number}", brief, tuple((300 - noise).tolist()), tuple(errors.tolist()))


def rule(metric: str, weight: float, kind: str = "seed") -> Rule:
    predicate = Predicate(metric, ">", 0.0, weight)
    return Rule.create(f"Mind {metric}.", ["pose:upright"], Provenance(kind, "test", None), predicate)


def memory(*rules: Rule) -> RuleMemory:
    memory = RuleMemory(MemoryStore(":memory:"), HashEmbedder())
    memory.add(list(rules))
    return memory


class Down(EmbeddedCritic):
    """A server that does not answer the questions with these numbers, counted from 0."""

    def __init__(self, *down: range) -> None:
        self.down, self.asked = down, -1

    def generate(self, parts, schema, seed):
        self.asked += 1
        if any(self.asked in span for span in self.down):
            raise ConnectionError("no answer")
        return super().generate(parts, schema, seed)


def rule_json(item: Rule) -> dict:
    predicate = item.predicate
    return {"id": item.rule_id, "text": item.text, "tags": [], "metric": predicate.metric, "comparison": ">",
            "threshold": predicate.threshold, "weight": predicate.weight}  # fmt: skip


def test_metric_agreement_is_spearmans_rho_with_the_error():
    agreement = metric_agreement(case(0))
    assert agreement["exact_mm"] == 1.0
    assert abs(agreement["noise_mm"]) < 1


def test_fitted_weights_prefer_the_rule_that_agrees_with_the_error_and_stay_non_negative():
    violations = [
        np.stack([errors, -errors]) for errors in (np.array([0.0, 1.0, 2.0]), np.array([2.0, 0.0, 1.0]))
    ]
    errors_mm = [100 * group[0] for group in violations]
    weights = fit_weights(violations, errors_mm, np.array([1.0, 1.0]))
    assert weights[0] > 1.0
    assert weights[1] == 0.0


def test_weights_stay_where_no_pair_differs_by_the_margin():
    start = np.array([1.0, 2.0])
    assert fit_weights([np.zeros((2, 3))], [np.array([50.0, 51.0, 52.0])], start).tolist() == [1.0, 2.0]


def test_mining_uses_the_metric_that_the_scores_ignored():
    mined = mine_rules(EmbeddedCritic(), 0, [case(number) for number in range(8)]).rules
    assert mined[0].predicate.metric == "exact_mm"
    assert mined[0].state == "quarantined"
    assert mined[0].provenance.kind == "mined"


def test_only_a_rule_that_helps_on_held_out_cases_is_admitted():
    serving = rule("noise_mm", 1.0)
    good, bad = rule("exact_mm", 2.0, "mined"), rule("noise_mm", 2.0, "mined")
    rules = memory(serving, bad, good)
    held_out = [case(number, [rule_json(serving)]) for number in range(6)]
    admitted = admit_quarantined(rules, EmbeddedCritic(), held_out, SETTINGS, GAIN, "trial")
    assert [item.rule_id for item in admitted.rules] == [good.rule_id]
    states = {item.rule_id: item.state for item in rules.all()}
    assert states == {serving.rule_id: "admitted", good.rule_id: "admitted", bad.rule_id: "quarantined"}
    helped, harmed = rules.history(good.rule_id)[-1], rules.history(bad.rule_id)[-1]
    assert (helped.state, helped.held_out) == ("admitted", "trial")
    assert helped.gain > GAIN > harmed.gain
    assert "on 6 held-out cases" in helped.reason


def test_a_rule_is_tried_once_on_the_same_cases():
    bad = rule("noise_mm", 2.0, "mined")
    rules = memory(rule("exact_mm", 1.0), bad)
    held_out = [case(number) for number in range(2)]
    for trial in ("a", "a", "b"):
        admit_quarantined(rules, EmbeddedCritic(), held_out, SETTINGS, GAIN, trial)
    assert [change.held_out for change in rules.history(bad.rule_id)] == [None, "a", "b"]


# two cases in two label orders: four questions per pass, first without the rule, then with it; each range drops all
# questions of at least one case
@pytest.mark.parametrize("down", [range(4), range(2), range(4, 8), range(6, 8)])
def test_a_trial_with_an_outage_is_not_recorded_and_is_repeated(down):
    serving, bad = rule("exact_mm", 1.0), rule("noise_mm", 2.0, "mined")
    rules = memory(serving, bad)
    held_out = [case(number, [rule_json(serving)]) for number in range(2)]
    admission = admit_quarantined(rules, Down(down), held_out, SETTINGS, GAIN, "trial")
    lost = {"case-1"} if down.start == 6 else {"case-0"} if down.stop == 2 else {"case-0", "case-1"}
    assert (admission.rules, admission.unscored) == ((), lost)
    assert len(rules.history(bad.rule_id)) == 1
    again = admit_quarantined(rules, EmbeddedCritic(), held_out, SETTINGS, GAIN, "trial")
    assert (again.rules, again.unscored) == ((), set())
    assert rules.history(bad.rule_id)[-1].gain < 0


def test_an_outage_during_the_trial_of_one_rule_does_not_affect_the_others():
    serving, first, good = (
        rule("noise_mm", 1.0),
        rule("noise_mm", 2.0, "mined"),
        rule("exact_mm", 2.0, "mined"),
    )
    rules = memory(serving, first, good)
    held_out = [case(number, [rule_json(serving)]) for number in range(2)]
    admission = admit_quarantined(rules, Down(range(4, 5), range(5, 8)), held_out, SETTINGS, GAIN, "trial")
    assert [item.rule_id for item in admission.rules] == [good.rule_id]
    assert admission.unscored == {"case-0", "case-1"}
    assert len(rules.history(first.rule_id)) == 1


class Indifferent(EmbeddedCritic):
    """Gives every hypothesis the same score."""

    def generate(self, parts, schema, seed):
        reply = super().generate(parts, schema, seed)
        return Reply(json.dumps({label: {"comment": "", "score": 50.0} for label in json.loads(reply.text)}))


def test_a_tie_of_all_hypotheses_counts_as_zero():
    serving, mined = rule("exact_mm", 1.0), rule("noise_mm", 2.0, "mined")
    rules = memory(serving, mined)
    held_out = [case(number, [rule_json(serving)]) for number in range(2)]
    assert admit_quarantined(rules, Indifferent(), held_out, SETTINGS, GAIN, "trial").unscored == set()
    assert rules.history(mined.rule_id)[-1].reason.startswith("rho 0.0000 to 0.0000 ")


def test_the_first_rule_is_compared_with_a_tie():
    """A critic that uses only rules gives no scores without one; that is not an outage."""
    rules = memory(rule("exact_mm", 1.0, "mined"))
    admission = admit_quarantined(rules, EmbeddedCritic(), [case(0)], SETTINGS, GAIN, "trial")
    assert (len(admission.rules), admission.unscored) == (1, set())


# four held-out cases in two label orders: eight questions per pass
@pytest.mark.parametrize("down", [range(8), range(2), range(8, 16), range(14, 16)])
def test_an_outage_while_weights_are_evaluated_keeps_the_old_ones(down):
    rules = memory(rule("exact_mm", 0.2), rule("noise_mm", 2.0))
    cases, held_out = [case(number) for number in range(6)], [case(number) for number in range(10, 14)]
    new = fit_rule_weights(rules, Down(down), cases, held_out, SETTINGS, GAIN)
    assert new.rules == {}
    assert None in (new.before, new.after)
    assert len(new.unscored) == len(down) // 2


def test_without_admitted_rules_no_weights_are_fitted():
    rules = memory(rule("exact_mm", 1.0, "mined"))
    new = fit_rule_weights(rules, EmbeddedCritic(), [case(0)], [case(1)], SETTINGS, GAIN)
    assert (new.rules, new.unscored) == ({}, set())


def test_an_imported_rule_is_tried_even_if_it_was_tried_before():
    serving, good = rule("noise_mm", 1.0), rule("exact_mm", 2.0, "mined")
    held_out = [case(number, [rule_json(serving)]) for number in range(4)]
    theirs = memory(serving, good)
    assert admit_quarantined(theirs, EmbeddedCritic(), held_out, SETTINGS, GAIN, "trial").rules
    mine = memory(serving)
    merge_document(mine, None, snapshot(theirs._store), "theirs")
    assert {item.state for item in mine.all() if item.rule_id == good.rule_id} == {"quarantined"}
    admission = admit_quarantined(mine, EmbeddedCritic(), held_out, SETTINGS, GAIN, "trial")
    assert [item.rule_id for item in admission.rules] == [good.rule_id]


def test_a_case_survives_a_round_trip_through_json():
    before = case(3)
    after = Explored.from_json(before.case_id, json.loads(json.dumps(before.to_json())))
    assert (after.scores, after.errors_mm, after.srcc) == (before.scores, before.errors_mm, before.srcc)
    assert metric_agreement(after) == metric_agreement(before)


def test_rules_with_fitted_weights_replace_the_old_ones_if_they_rank_better():
    rules = memory(rule("exact_mm", 0.2), rule("noise_mm", 2.0))
    cases, held_out = [case(number) for number in range(6)], [case(number) for number in range(10, 14)]
    new = fit_rule_weights(rules, EmbeddedCritic(), cases, held_out, SETTINGS, GAIN)
    assert {item.state for item in rules.all()} == {"admitted"}  # nothing is written before `write`
    new.write(rules)
    serving = [item for item in rules.all() if item.state == "admitted"]
    weights = {item.predicate.metric: item.predicate.weight for item in serving}
    assert len(new.rules) == 2
    assert weights["exact_mm"] > weights["noise_mm"]
    assert sum(weights.values()) == pytest.approx(2.2, abs=0.01)
    assert {rules.history(item.rule_id)[-1].gain for item in serving} == {new.after - new.before}
    assert fit_rule_weights(rules, EmbeddedCritic(), cases, held_out, SETTINGS, min_gain=0.1).rules == {}
