"""Two memories become one: every case counts once, and rules that say the same are one rule.

Cases are united by their id; where both memories recorded a case, the receiving one's record stands. A rule
that both know keeps its id. Of the others, two are near-duplicates if their sentences' cosine reaches
`similarity` and they find the same fault (both without a predicate, or the same metric and comparison with
thresholds within a tenth of each other). The one in service stays, else the one with more recorded cases, else
the receiving memory's; it takes over the other's cases. Prototypes are united by their id, and the bounded
memory's own policy decides which are kept.

A stranger's rule is a sentence that will be read into prompts for as long as the memory lives, so what was in
service there starts in quarantine here, unless the reader trusts the source (`keep_states`). Nor are a stranger's
trials trials here: of its history the reasons are kept and the figures are not, so that the rule is tried.

Left out: weights are not averaged. The surviving rule's stands; exploring again fits all of them, on the cases of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memory.exchange import MemoryDocument, RuleRecord
from memory.prototypes import PrototypeMemory
from memory.rule import Predicate, Rule, StateChange
from memory.rules import RuleMemory

__all__ = ["NEAR_DUPLICATE", "MergeReport", "absorb"]

NEAR_DUPLICATE = 0.95  # cosine; with MiniLM a sentence and its paraphrase lie about there
THRESHOLD_SHARE = 0.1


@dataclass(frozen=True)
class MergeReport:
    """What a merge changed."""

    rules_added: int
    rules_joined: int
    cases_added: int
    cases_known: int
    prototypes_kept: int  # of the other memory's


def absorb(
    rules: RuleMemory,
    prototypes: PrototypeMemory | None,
    document: MemoryDocument,
    source: str,
    keep_states: bool = False,
    similarity: float = NEAR_DUPLICATE,
) -> MergeReport:
    """Takes in all that `document` holds, or nothing of it; without `prototypes`, those are left out.

    `source` names the other memory in the histories. Doing it twice changes nothing the second time, but for
    prototypes that found no room. Raises FrozenMemoryError.
    """
    with rules.transaction():
        known = {rule.rule_id: rule for rule in rules.all()}
        incoming = _entering(document, keep_states)
        twins = _near_duplicates(rules, incoming, known, similarity)
        names = _take_in(rules, incoming, twins, source)
        if keep_states:
            _follow(rules, incoming, known, source)
        counted = [
            rules.record_case(
                case.case_id,
                [names[used] for used in case.rules],
                case.success,
                None if case.judged is None else dict(case.judged),
            )
            for case in document.cases
        ]
        for case in document.cases:
            for used, success in case.recounts.items():
                rules.recount_case(case.case_id, [names[used]], success)
        for step in document.steps:
            rules.mark_done(step)
        pairs = [(kept.prototype, kept.vector) for kept in document.prototypes]
        kept_ids = prototypes.add(pairs) if prototypes is not None else []
        return MergeReport(
            rules_added=len(rules) - len(known),
            rules_joined=len(twins),
            cases_added=sum(counted),
            cases_known=len(counted) - sum(counted),
            prototypes_kept=len(kept_ids),
        )


def _entering(document: MemoryDocument, keep_states: bool) -> list[RuleRecord]:
    """The document's rules as they would be here: counted by its cases, in quarantine unless trusted."""
    uses = Counter(rule_id for case in document.cases for rule_id in {*case.rules, *case.recounts})
    entering = []
    for kept in document.rules:
        trusted = keep_states or kept.rule.state != "admitted"
        state = kept.rule.state if trusted else "quarantined"
        history = kept.history if keep_states else tuple(map(_hearsay, kept.history))
        rule = replace(kept.rule, uses=uses[kept.rule.rule_id], state=state)
        entering.append(replace(kept, rule=rule, history=history))
    return entering


def _hearsay(change: StateChange) -> StateChange:
    return replace(change, gain=None, held_out=None)


def _take_in(
    rules: RuleMemory, incoming: Sequence[RuleRecord], twins: Mapping[str, Rule], source: str
) -> dict[str, str]:
    """Adds the rules that are new and join those that are not; returns each one's id as it is here."""
    names = {}
    for kept in incoming:
        their, own = kept.rule, twins.get(kept.rule.rule_id)
        stays = own is not None and _weight_of(own) >= _weight_of(their)
        names[their.rule_id] = own.rule_id if own and stays else their.rule_id
    entering = [kept for kept in incoming if names[kept.rule.rule_id] == kept.rule.rule_id]
    earlier = {kept.rule.rule_id: kept.history for kept in entering}
    rules.add([kept.rule for kept in entering], f"from {source}", earlier)
    for their_id, own in twins.items():
        if names[their_id] == their_id:
            rules.join(own.rule_id, their_id, f"says the same as {their_id}, from {source}")
    return names


def _weight_of(rule: Rule) -> tuple[bool, int]:
    """Of two near-duplicates the one with the larger survives."""
    return rule.state == "admitted", rule.uses


def _near_duplicates(
    rules: RuleMemory, incoming: Sequence[RuleRecord], known: Mapping[str, Rule], similarity: float
) -> dict[str, Rule]:
    """By the id of a rule that is new here: the one here that says the same; closest pairs first, each rule
    in one pair."""
    theirs = {kept.rule.rule_id: kept.rule for kept in incoming}
    fresh = [rule for rule_id, rule in theirs.items() if rule_id not in known]
    own = [rule for rule_id, rule in known.items() if rule_id not in theirs]
    cosines = rules.embeddings(fresh) @ rules.embeddings(own).T
    near = [
        (-float(cosines[i, j]), fresh[i].rule_id, own[j].rule_id)
        for i, j in np.argwhere(cosines >= similarity)
        if _same_fault(fresh[i].predicate, own[j].predicate)
    ]
    twins: dict[str, str] = {}
    for _, their_id, own_id in sorted(near):
        if their_id not in twins and own_id not in twins.values():
            twins[their_id] = own_id
    return {their_id: known[own_id] for their_id, own_id in twins.items()}


def _same_fault(a: Predicate | None, b: Predicate | None) -> bool:
    if a is None or b is None:
        return a is b
    close = abs(a.threshold - b.threshold) <= THRESHOLD_SHARE * max(abs(a.threshold), abs(b.threshold))
    return (a.metric, a.comparison) == (b.metric, b.comparison) and close


def _follow(
    rules: RuleMemory, incoming: Sequence[RuleRecord], known: Mapping[str, Rule], source: str
) -> None:
    """A rule that both know takes the state it has where it was used more."""
    for kept in incoming:
        own = known.get(kept.rule.rule_id)
        if own and own.state != kept.rule.state and kept.rule.uses > own.uses:
            last = kept.history[-1] if kept.history else None
            reason = f"as in {source}: {last.reason}" if last else f"as in {source}"
            rules.set_state(own.rule_id, kept.rule.state, reason, last.gain if last else None)
