"""Retires rules that fail too often, and quarantined rules that no trial admitted.

Admitted rules: with s successes in u uses and a uniform prior, the success rate of a rule has the posterior
Beta(s + 1, u - s + 1). The rule retires if its rate is, with probability `confidence`, below `share` of the rate of all
uses together. The threshold is relative because success is a property of the whole group (section 2 of the method): if
the critic fails everywhere, no single rule is the cause and none retires.

Quarantined rules: a rule that trials on `trials` different sets of held-out cases did not admit is not tried again.

The paper and its sources do not specify when rules are removed; the default values are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory.ledger import RuleLedger
from memory.rule import Rule

__all__ = ["RetirementPolicy", "failing_probability", "retire_failing", "retire_fruitless"]


@dataclass(frozen=True)
class RetirementPolicy:
    """Thresholds for retiring rules."""

    least_uses: int = 8  # a rule with fewer uses never retires
    share: float = 0.5  # of the success rate of all uses together
    confidence: float = 0.95
    trials: int = 3  # of a quarantined rule, without a gain


def failing_probability(uses: int, successes: int, rate: float) -> float:
    """Posterior probability that a rule's success rate is below `rate`: the CDF of the Beta distribution."""
    from scipy.special import betainc  # imported here because most commands do not need scipy

    return float(betainc(successes + 1, uses - successes + 1, rate))


def retire_failing(rules: RuleLedger, policy: RetirementPolicy = RetirementPolicy()) -> list[str]:
    """Retires admitted rules that fail too often, records the reasons, and returns their ids.

    Raises FrozenMemoryError if a rule has to retire and the memory is frozen.
    """
    known = rules.all()
    rate = sum(rule.successes for rule in known) / max(sum(rule.uses for rule in known), 1)
    reasons = {
        rule.rule_id: reason
        for rule in known
        if rule.state == "admitted" and (reason := _failure_reason(rule, rate, policy))
    }
    return _retire(rules, reasons)


def retire_fruitless(rules: RuleLedger, policy: RetirementPolicy = RetirementPolicy()) -> list[str]:
    """Retires quarantined rules that enough trials did not admit, and returns their ids. Raises as above."""
    histories = rules.histories()
    reasons = {}
    for rule in rules.all():
        changes = histories[rule.rule_id]
        trials = {change.held_out for change in changes if change.state != "admitted"} - {None}
        if rule.state == "quarantined" and len(trials) >= policy.trials:
            reasons[rule.rule_id] = f"no gain in {len(trials)} trials"
    return _retire(rules, reasons)


def _retire(rules: RuleLedger, reasons: Mapping[str, str]) -> list[str]:
    if reasons:
        with rules.transaction():
            for rule_id, reason in reasons.items():
                rules.set_state(rule_id, "retired", reason)
    return list(reasons)


def _failure_reason(rule: Rule, pooled_rate: float, policy: RetirementPolicy) -> str:
    """Why the rule retires; empty if it does not."""
    threshold = policy.share * pooled_rate
    if rule.uses < policy.least_uses:
        return ""
    probability = failing_probability(rule.uses, rule.successes, threshold)
    if probability < policy.confidence:
        return ""
    return (
        f"right in {rule.successes} of {rule.uses} cases: below {threshold:.2f}, {policy.share:g} of all rules' rate, "
        f"with probability {probability:.3f}"
    )
