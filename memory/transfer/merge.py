"""Merges an exported memory into another one: every case counts once, and equivalent rules become one rule.

Cases are united by their id; if both memories recorded a case, the record of the receiving memory is kept. A rule that
both have keeps its id. Of the other rules, two are near-duplicates if the cosine of their sentences reaches
`similarity` and they test the same fault: both without a predicate, or with the same metric and comparison and with
thresholds that differ by at most a tenth. The admitted one is kept, otherwise the one in quarantine, otherwise the one
with more recorded cases, otherwise the receiving memory's; it takes over the cases of the other. Prototypes are united
by their id, and the bounded memory selects which to keep.

Imported text becomes part of future prompts. Therefore, unless the user trusts the source (`keep_states`), a rule that
was admitted in the other memory starts in quarantine here, and prototypes come with their numbers but without their
sentences: hundreds of rationales cannot be reviewed, and no trial measures them. The other memory's trials do not count
here: its history keeps the reasons without the gains, so that the rule is tried again, and the steps of its exploration
are not taken for done.

Left out: averaging of weights. The weight of the rule that is kept stays; another exploration fits the weights on the
cases of both memories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memory.prototype_memory import NOT_TAKEN_OVER, PrototypeMemory, without_text
from memory.rule import Predicate, Rule
from memory.rule_memory import RuleMemory
from memory.transfer.exchange import CaseRecord, MemoryDocument, RuleRecord

__all__ = ["MergeReport", "merge_document"]

NEAR_DUPLICATE = 0.95  # cosine; about that of a sentence and its paraphrase with MiniLM
THRESHOLD_TOLERANCE = 0.1  # relative


@dataclass(frozen=True)
class MergeReport:
    """The counts of a merge."""

    rules_added: int
    rules_joined: int
    cases_added: int
    cases_known: int
    prototypes_kept: int  # of the other memory


def merge_document(
    rules: RuleMemory,
    prototypes: PrototypeMemory | None,
    document: MemoryDocument,
    source: str,
    keep_states: bool = False,
    similarity: float = NEAR_DUPLICATE,
) -> MergeReport:
    """Adds the whole content of `document` in one transaction; with `prototypes=None` without its prototypes.

    `source` names the other memory in the histories. A second merge of the same document changes nothing, except that
    prototypes which were not kept are tried again. Raises FrozenMemoryError.
    """
    with rules.transaction():
        known = {rule.rule_id: rule for rule in rules.all()}
        incoming = _incoming_rules(document, keep_states)
        duplicates = _near_duplicates(rules, incoming, known, similarity)
        ids = _add_or_join(rules, incoming, duplicates, source)
        if keep_states:
            _update_states(rules, incoming, known, source)
        added = [
            rules.record_case(
                case.case_id,
                [ids[rule_id] for rule_id in case.rules],
                case.success,
                _judged(case, keep_states),
            )
            for case in document.cases
        ]
        for case in document.cases:
            for rule_id, success in case.recounts.items():
                rules.recount_case(case.case_id, [ids[rule_id]], success)
        if keep_states:  # without, their trials do not count here, so this memory mines and weighs for itself
            for step in document.steps:
                rules.mark_done(step)
        kept_prototypes = _add_prototypes(prototypes, document, keep_states) if prototypes is not None else []
        return MergeReport(
            rules_added=len(rules) - len(known),
            rules_joined=len(duplicates),
            cases_added=sum(added),
            cases_known=len(added) - sum(added),
            prototypes_kept=len(kept_prototypes),
        )


def _incoming_rules(document: MemoryDocument, keep_states: bool) -> list[RuleRecord]:
    """The document's rules with their uses in its cases; without `keep_states` in quarantine and without gains."""
    uses = Counter(rule_id for case in document.cases for rule_id in {*case.rules, *case.recounts})
    incoming = []
    for record in document.rules:
        rule, history = replace(record.rule, uses=uses[record.rule.rule_id]), record.history
        if not keep_states:
            rule = replace(rule, state="quarantined") if rule.state == "admitted" else rule
            history = tuple(replace(change, gain=None, held_out=None) for change in history)
        incoming.append(RuleRecord(rule, history))
    return incoming


def _judged(case: CaseRecord, keep_states: bool) -> dict[str, Any] | None:
    """What the critic saw of a case, which is asked again in trials."""
    if case.judged is None or keep_states:
        return case.judged and dict(case.judged)
    shown = [{**prototype, "rationale": NOT_TAKEN_OVER} for prototype in case.judged["prototypes"]]
    return {**case.judged, "prototypes": shown}


def _add_prototypes(prototypes: PrototypeMemory, document: MemoryDocument, keep_states: bool) -> list[str]:
    """The ids of those that were kept. Those that this memory already has are its own."""
    own = {prototype.prototype_id for prototype in prototypes.all()}
    return prototypes.add(
        [
            (
                record.prototype
                if keep_states or record.prototype.prototype_id in own
                else without_text(record.prototype),
                record.vector,
            )
            for record in document.prototypes
        ]
    )


def _add_or_join(
    rules: RuleMemory, incoming: Sequence[RuleRecord], duplicates: Mapping[str, Rule], source: str
) -> dict[str, str]:
    """Adds new rules and joins near-duplicates. Returns the id in this memory of every incoming rule."""
    ids = {}
    for record in incoming:
        theirs, own = record.rule, duplicates.get(record.rule.rule_id)
        ids[theirs.rule_id] = own.rule_id if own and _priority(own) >= _priority(theirs) else theirs.rule_id
    kept = [record for record in incoming if ids[record.rule.rule_id] == record.rule.rule_id]
    histories = {record.rule.rule_id: record.history for record in kept}
    rules.add([record.rule for record in kept], f"from {source}", histories)
    for their_id, own in duplicates.items():
        if ids[their_id] == their_id:
            rules.join(own.rule_id, their_id, f"says the same as {their_id}, from {source}")
    return ids


def _priority(rule: Rule) -> tuple[int, int]:
    """The near-duplicate with the higher priority is kept. One that is retired never takes over one that is not: the
    other memory may have retired it for reasons that do not hold here."""
    return ("retired", "quarantined", "admitted").index(rule.state), rule.uses


def _near_duplicates(
    rules: RuleMemory, incoming: Sequence[RuleRecord], known: Mapping[str, Rule], similarity: float
) -> dict[str, Rule]:
    """The near-duplicates of new rules in this memory, by the id of the new rule. Closest pairs are matched first, and
    each rule is in at most one pair."""
    theirs = {record.rule.rule_id: record.rule for record in incoming}
    new = [rule for rule_id, rule in theirs.items() if rule_id not in known]
    own = [rule for rule_id, rule in known.items() if rule_id not in theirs]
    cosines = rules.embeddings(new) @ rules.embeddings(own).T
    near = [
        (-float(cosines[i, j]), new[i].rule_id, own[j].rule_id)
        for i, j in np.argwhere(cosines >= similarity)
        if _same_fault(new[i].predicate, own[j].predicate)
    ]
    matches: dict[str, str] = {}
    for _, their_id, own_id in sorted(near):
        if their_id not in matches and own_id not in matches.values():
            matches[their_id] = own_id
    return {their_id: known[own_id] for their_id, own_id in matches.items()}


def _same_fault(a: Predicate | None, b: Predicate | None) -> bool:
    if a is None or b is None:
        return a is b
    close = abs(a.threshold - b.threshold) <= THRESHOLD_TOLERANCE * max(abs(a.threshold), abs(b.threshold))
    return (a.metric, a.comparison) == (b.metric, b.comparison) and close


def _update_states(
    rules: RuleMemory, incoming: Sequence[RuleRecord], known: Mapping[str, Rule], source: str
) -> None:
    """A rule that both memories have gets its state from the memory in which it has more uses."""
    for record in incoming:
        own = known.get(record.rule.rule_id)
        if own and own.state != record.rule.state and record.rule.uses > own.uses:
            last = record.history[-1] if record.history else None
            reason = f"as in {source}: {last.reason}" if last else f"as in {source}"
            rules.set_state(own.rule_id, record.rule.state, reason, last.gain if last else None)
