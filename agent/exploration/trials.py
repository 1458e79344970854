"""Trials: whether a quarantined rule raises the rank correlation on held-out cases.

A trial scores the held-out cases again from their briefs, with and without the rule (`agent.exploration.learning`). Its
result is recorded with the rule under a name, so that each rule is tried once per backend and set of held-out cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.context import CritiqueSettings
from agent.exploration.learning import Explored, evaluate_rules, listed_rule
from agent.types import QuestionFailure
from agent.vlm.protocol import VLMBackend
from common.storage.fingerprint import digest
from memory.rule import Rule
from memory.rule_memory import RuleMemory

__all__ = ["Admission", "admit_quarantined", "pending_rules", "trial_name", "tried_rules"]


@dataclass(frozen=True)
class Admission:
    """The result of the trials of the quarantined rules."""

    rules: tuple[Rule, ...]  # admitted now
    unscored: frozenset[str] = frozenset()  # held-out cases without a score: their trials have to be repeated
    failures: tuple[QuestionFailure, ...] = ()


def admit_quarantined(
    rules: RuleMemory,
    backend: VLMBackend,
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    min_gain: float,
    trial: str,
) -> Admission:
    """Try the quarantined rules on the held-out cases, one after the other, and admit those that raise rho by more than
    `min_gain`.

    The result of each trial is recorded with the rule under the name `trial`; a rule that has a record of that name is
    not tried again. A trial without a result is not recorded.
    """
    pending = pending_rules(rules, trial) if held_out else []
    if not pending:
        return Admission(())
    retrieved = [case.brief.rules for case in held_out]
    base = evaluate_rules(backend, held_out, settings, retrieved)
    if base.srcc is None:
        return Admission((), base.unscored, base.failures)
    best, unscored, failures = base.srcc, base.unscored, base.failures
    admitted: list[Rule] = []
    results: list[tuple[Rule, float, float]] = []
    for rule in pending:
        listed = [[*own, *map(listed_rule, [*admitted, rule])] for own in retrieved]
        result = evaluate_rules(backend, held_out, settings, listed)
        unscored, failures = unscored | result.unscored, failures + result.failures
        if result.srcc is None:
            continue
        results.append((rule, best, result.srcc))
        if result.srcc > best + min_gain:
            admitted.append(rule)
            best = result.srcc
    note = f"on {len(held_out)} held-out cases; {min_gain:g} is asked for"
    _record_trials(rules, results, admitted, note, trial)
    return Admission(tuple(admitted), unscored, failures)


def trial_name(backend: str, held_out: Sequence[str]) -> str:
    """Identifies trials of rules by the backend that scores the held-out cases, and their ids."""
    return digest("\n".join([backend, *held_out]), length=12)


def tried_rules(rules: RuleMemory, trial: str) -> list[str]:
    """The ids of all rules with a record of this trial, admitted or not, in service or replaced."""
    histories = rules.histories()
    return sorted(
        rule_id for rule_id, changes in histories.items() if trial in {change.held_out for change in changes}
    )


def pending_rules(rules: RuleMemory, trial: str) -> list[Rule]:
    """Quarantined rules without a record of this trial."""
    histories = rules.histories()
    return [
        rule
        for rule in rules.all()
        if rule.state == "quarantined" and rule.predicate
        if trial not in {change.held_out for change in histories[rule.rule_id]}
    ]


def _record_trials(
    rules: RuleMemory,
    results: Sequence[tuple[Rule, float, float]],
    admitted: Sequence[Rule],
    note: str,
    trial: str,
) -> None:
    """Record all trials in one transaction, each with the mean rho without the rule and with it."""
    with rules.transaction():
        for rule, before, after in results:
            state = "admitted" if rule in admitted else "quarantined"
            reason = f"rho {before:.4f} to {after:.4f} {note}"
            rules.set_state(rule.rule_id, state, reason, after - before, trial)
