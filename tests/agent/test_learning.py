"""What is learned from cases with truth: weights, rules, and their admission."""

import json

import numpy as np
import pytest

from agent.briefing import Brief
from agent.calibrate import fit_weights
from agent.context import CritiqueSettings
from agent.learning import Explored, admit_quarantined, metric_agreement, mine_rules, reweigh
from agent.vlm import EmbeddedCritic
from memory.rules import Predicate, Provenance, Rule, RuleMemory
from memory.store import MemoryStore
from tests.agent.critique_case import HashEmbedder

GROUP = 8
SETTINGS = CritiqueSettings(permutations=2)
GAIN = 0.002


def case(number: int, rules: list | None = None) -> Explored:
    """Metric `told` is the error, `noise` is not; the verdict followed `noise`."""
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
        for name, values in (("told", errors), ("noise", noise))
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


def as_judged(item: Rule) -> dict:
    predicate = item.predicate
    return {"id": item.rule_id, "text": item.text, "tags": [], "metric": predicate.metric, "comparison": ">",
            "threshold": predicate.threshold, "weight": predicate.weight}  # fmt: skip


def test_metric_agreement_is_spearmans_rho_with_the_error():
    agreement = metric_agreement(case(0))
    assert agreement["told_mm"] == 1.0
    assert abs(agreement["noise_mm"]) < 1


def test_fitted_weights_prefer_the_rule_that_tells_the_error_and_stay_non_negative():
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


def test_mining_learns_from_the_metric_that_the_verdict_ignored():
    mined = mine_rules(EmbeddedCritic(), 0, [case(number) for number in range(8)]).rules
    assert mined[0].predicate.metric == "told_mm"
    assert mined[0].state == "quarantined"
    assert mined[0].provenance.kind == "mined"


def test_only_a_rule_that_helps_on_held_out_cases_leaves_quarantine():
    serving = rule("noise_mm", 1.0)
    good, bad = rule("told_mm", 2.0, "mined"), rule("noise_mm", 2.0, "mined")
    rules = memory(serving, bad, good)
    held_out = [case(number, [as_judged(serving)]) for number in range(6)]
    admitted = admit_quarantined(rules, EmbeddedCritic(), held_out, SETTINGS, GAIN, "trial")
    assert [item.rule_id for item in admitted] == [good.rule_id]
    states = {item.rule_id: item.state for item in rules.all()}
    assert states == {serving.rule_id: "admitted", good.rule_id: "admitted", bad.rule_id: "quarantined"}
    helped, harmed = rules.history(good.rule_id)[-1], rules.history(bad.rule_id)[-1]
    assert (helped.state, helped.held_out) == ("admitted", "trial")
    assert helped.gain > GAIN > harmed.gain
    assert "on 6 held-out cases" in helped.reason


def test_a_rule_is_tried_once_on_the_same_cases():
    bad = rule("noise_mm", 2.0, "mined")
    rules = memory(rule("told_mm", 1.0), bad)
    held_out = [case(number) for number in range(2)]
    for trial in ("a", "a", "b"):
        admit_quarantined(rules, EmbeddedCritic(), held_out, SETTINGS, GAIN, trial)
    assert [change.held_out for change in rules.history(bad.rule_id)] == [None, "a", "b"]


def test_a_case_comes_back_from_json_as_it_was():
    before = case(3)
    after = Explored.from_json(before.case_id, json.loads(json.dumps(before.to_json())))
    assert (after.scores, after.errors_mm, after.srcc) == (before.scores, before.errors_mm, before.srcc)
    assert metric_agreement(after) == metric_agreement(before)


def test_reweighed_rules_replace_the_old_only_when_they_rank_better():
    rules = memory(rule("told_mm", 0.2), rule("noise_mm", 2.0))
    cases, held_out = [case(number) for number in range(6)], [case(number) for number in range(10, 14)]
    new = reweigh(rules, EmbeddedCritic(), cases, held_out, SETTINGS, GAIN)
    assert {item.state for item in rules.all()} == {"admitted"}  # nothing is written until somebody says so
    new.write(rules)
    serving = [item for item in rules.all() if item.state == "admitted"]
    weights = {item.predicate.metric: item.predicate.weight for item in serving}
    assert len(new.rules) == 2
    assert weights["told_mm"] > weights["noise_mm"]
    assert sum(weights.values()) == pytest.approx(2.2, abs=0.01)
    assert {rules.history(item.rule_id)[-1].gain for item in serving} == {new.after - new.before}
    assert reweigh(rules, EmbeddedCritic(), cases, held_out, SETTINGS, gain=0.1).rules == {}
