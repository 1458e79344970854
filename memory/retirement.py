"""When a rule has failed often enough to leave service, or quarantine for good.

In service: with s successes in u uses and a uniform prior, the rate at which rule i is right has the
posterior Beta(s + 1, u - s + 1). The rule retires if that rate lies, with probability `confidence`, below
`share` of the rate of all uses together. The bar is relative because a success is the whole group's
(method section 2): where the critic fails everywhere, no single rule is to blame and none retires.

In quarantine: a rule that `trials` different sets of held-out cases did not admit is not tried again.

Neither the paper nor its sources say when a rule should go; these numbers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memory.ledger import RuleLedger
from memory.rule import Rule

__all__ = ["RetirementPolicy", "failing_probability", "retire_failing", "retire_fruitless"]


@dataclass(frozen=True)
class RetirementPolicy:
    """How much failure is too much."""

    least_uses: int = 8  # nothing is said of a rule with fewer
    share: float = 0.5  # of the success rate of all uses together
    confidence: float = 0.95
    trials: int = 3  # without a gain, for a quarantined rule


def failing_probability(uses: int, successes: int, rate: float) -> float:
    """Posterior probability that a rule is right less often than `rate`: the Beta distribution's CDF there."""
    from scipy.special import betainc  # loaded when it is needed: listing a memory needs no scipy

    return float(betainc(successes + 1, uses - successes + 1, rate))


def retire_failing(rules: RuleLedger, policy: RetirementPolicy = RetirementPolicy()) -> list[str]:
    """Retires the rules in service that keep failing, each with its reason, and returns their ids.

    Raises FrozenMemoryError if there is something to retire and the memory is frozen.
    """
    known = rules.all()
    rate = _pooled_rate(known)
    reasons = {
        rule.rule_id: reason
        for rule in known
        if rule.state == "admitted" and (reason := _failed_in_service(rule, rate, policy))
    }
    return _retire(rules, reasons)


def retire_fruitless(rules: RuleLedger, policy: RetirementPolicy = RetirementPolicy()) -> list[str]:
    """Retires the quarantined rules that enough trials did not admit, and returns their ids; raises as above."""
    histories = rules.histories()
    reasons = {}
    for rule in rules.all():
        trials = {change.held_out for change in histories[rule.rule_id] if change.state != "admitted"} - {
            None
        }
        if rule.state == "quarantined" and len(trials) >= policy.trials:
            reasons[rule.rule_id] = f"no gain in {len(trials)} trials"
    return _retire(rules, reasons)


def _retire(rules: RuleLedger, reasons: Mapping[str, str]) -> list[str]:
    if reasons:
        with rules.transaction():
            for rule_id, reason in reasons.items():
                rules.set_state(rule_id, "retired", reason)
    return list(reasons)


def _pooled_rate(rules: Sequence[Rule]) -> float:
    return sum(rule.successes for rule in rules) / max(sum(rule.uses for rule in rules), 1)


def _failed_in_service(rule: Rule, pooled_rate: float, policy: RetirementPolicy) -> str:
    """Why the rule must go; empty if it may stay."""
    bar = policy.share * pooled_rate
    if rule.uses < policy.least_uses:
        return ""
    probability = failing_probability(rule.uses, rule.successes, bar)
    if probability < policy.confidence:
        return ""
    return (
        f"right in {rule.successes} of {rule.uses} cases: below {bar:.2f}, {policy.share:g} of all rules' rate, "
        f"with probability {probability:.3f}"
    )
