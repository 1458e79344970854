"""What an agent learns from cases whose truth is known: new rules, and how much each should count.

Nothing enters service unseen: a candidate is tried on held-out cases, judged again from their briefs with and
without it, and is admitted only if mean Spearman's rho rises. A rule is immutable (its id is a hash of its
content), so a new weight makes a new rule of the same text, and the one it replaces retires. Every change of
state is written down with its reason and, where a trial measured one, its gain. A trial in which a case came back
without a single score measured nothing: nothing is written of it, and a later run tries again.

Left out: pictures at the trial of a rule. A stored case keeps its measurements, not its renders; a backend
with eyes judges candidates from the measurements alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from agent.agreement import group_spearman
from agent.context import CritiqueSettings
from agent.exploration.weight_fitting import fit_weights
from agent.prompts.answers import MineAnswer
from agent.prompts.question import Brief, question
from agent.scoring.ask import ask
from agent.scoring.scoring import score_group
from agent.vlm.embedded.critic import metric_trust
from agent.vlm.embedded.violations import violation
from agent.vlm.protocol import DataPart, VLMBackend
from memory.rules import Predicate, Provenance, Rule, RuleMemory

__all__ = [
    "Admission",
    "Explored",
    "Mined",
    "Reweighed",
    "admit_quarantined",
    "metric_agreement",
    "mine_rules",
    "places",
    "plain_rule",
    "recount",
    "reweigh",
]

Json = dict[str, Any]
MISJUDGED = 0.25  # of the group: a hypothesis ranked this far from its true place teaches something


@dataclass(frozen=True)
class Explored:
    """A judged case and the truth about it."""

    case_id: str
    brief: Brief
    scores: tuple[float | None, ...]
    errors_mm: tuple[float, ...]

    @property
    def srcc(self) -> float | None:
        return group_spearman(self.scores, self.errors_mm)

    @property
    def unscored(self) -> bool:
        """Whether not a single score came back, which says something of the backend and nothing of the rules."""
        return all(score is None for score in self.scores)

    def to_json(self) -> Json:
        """What the memory keeps of a case, so that a later process learns from all of them.

        The true errors are in it: cases of exploration are labelled lab cases (method section 2), and no wild
        image ever gets here.
        """
        kept = {
            "evidence": self.brief.evidence,
            "rules": self.brief.rules,
            "prototypes": self.brief.prototypes,
        }
        return {**kept, "tags": self.brief.tags, "scores": self.scores, "errors_mm": self.errors_mm}

    @staticmethod
    def from_json(case_id: str, kept: Json) -> Explored:
        brief = Brief(kept["evidence"], kept["rules"], kept["prototypes"], kept["tags"])
        return Explored(case_id, brief, tuple(kept["scores"]), tuple(kept["errors_mm"]))


@dataclass(frozen=True)
class Mined:
    """What a backend made of a batch's mistakes; `answered` is False where its reply was no answer."""

    rules: list[Rule]
    answered: bool
    replies: tuple[Json, ...]


@dataclass(frozen=True)
class Admission:
    """What came of trying the quarantined rules."""

    rules: tuple[Rule, ...]  # those that serve now
    unscored: frozenset[str] = frozenset()  # held-out cases that got no score: what was tried on them waits


@dataclass(frozen=True)
class Reweighed:
    """Rules with fitted weights, by the id of the one each replaces; none where nothing was gained."""

    rules: dict[str, Rule]
    before: float | None  # mean rho on the held-out cases; None where that could not be measured
    after: float | None
    unscored: frozenset[str] = frozenset()  # held-out cases that got no score: the old rules stand

    @property
    def made(self) -> dict[str, Rule]:
        """Those whose weight did change."""
        return {old: rule for old, rule in self.rules.items() if old != rule.rule_id}

    def write(self, memory: RuleMemory) -> None:
        """Puts the new rules into service and retires the old. Raises FrozenMemoryError."""
        for old, rule in self.made.items():
            assert self.before is not None, "rules are made only where a trial was measured"
            assert self.after is not None
            gain = self.after - self.before
            reason = f"reweighed: rho {self.before:.4f} to {self.after:.4f} on held-out cases"
            memory.add([replace(rule, state="quarantined")], f"made from {old}")
            memory.set_state(rule.rule_id, "admitted", reason, gain)
            memory.set_state(old, "retired", f"replaced by {rule.rule_id}, the same with another weight")


def places(costs: Sequence[float]) -> Int[np.ndarray, "group"]:
    """Every hypothesis' place in the ranking, 0 for the lowest cost."""
    return np.argsort(np.argsort(costs, kind="stable"))


def metric_agreement(case: Explored) -> dict[str, float]:
    """Spearman's rho of every metric with the true errors; a metric that is equal for all is left out."""
    found = {}
    for item in case.brief.evidence:
        costs = [None if value is None else -value for value in item["values"]]
        rho = group_spearman(costs, case.errors_mm)
        if rho is not None:
            found[item["metric"]] = round(rho, 4)
    return found


def mine_rules(backend: VLMBackend, seed: int, cases: Sequence[Explored]) -> Mined:
    """One or two quarantined rules from where the verdicts on these cases disagreed with the truth."""
    discrepancy = _discrepancy(cases)
    answer = ask(backend, "mine", [*question("mine"), DataPart("discrepancy", discrepancy)], MineAnswer, seed)
    worst = min(cases, key=lambda case: 1.0 if case.srcc is None else case.srcc)
    provenance = Provenance(kind="mined", backend=backend.name, case_id=worst.case_id)
    rules = []
    for mined in answer.value.rules[:2] if answer.value else []:
        if mined.metric not in discrepancy["metrics"]:
            continue
        predicate = Predicate(mined.metric, mined.comparison, mined.threshold, mined.weight)
        # The memory refuses addresses and control characters; such a rule is not learned.
        try:
            rules.append(Rule.create(mined.text, mined.tags, provenance, predicate))
        except ValueError:
            continue
    return Mined(rules, answer.value is not None, answer.replies)


def admit_quarantined(
    rules: RuleMemory,
    backend: VLMBackend,
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    gain: float,
    trial: str,
) -> Admission:
    """Try the quarantined rules on the held-out cases, one after the other; those that raise rho by `gain`
    serve.

    What each trial measured is written down with the rule under the name `trial`, and a rule that has been
    through a trial of that name is not tried again. A trial that could not be measured is not written down.
    """
    waiting = _untried(rules, trial) if held_out else []
    if not waiting:
        return Admission(())
    served = [case.brief.rules for case in held_out]
    base = _try_rules(backend, held_out, settings, served)
    if base.srcc is None:
        return Admission((), base.unscored)
    best, unscored = base.srcc, frozenset[str]()
    admitted: list[Rule] = []
    measured: list[tuple[Rule, float, float]] = []
    for rule in waiting:
        listed = [[*own, *map(plain_rule, [*admitted, rule])] for own in served]
        tried = _try_rules(backend, held_out, settings, listed)
        unscored |= tried.unscored
        if tried.srcc is None:
            continue
        measured.append((rule, best, tried.srcc))
        if tried.srcc > best + gain:
            admitted.append(rule)
            best = tried.srcc
    said = f"on {len(held_out)} held-out cases; {gain:g} is asked for"
    _write_trials(rules, measured, admitted, said, trial)
    return Admission(tuple(admitted), unscored)


def reweigh(
    rules: RuleMemory,
    backend: VLMBackend,
    cases: Sequence[Explored],
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    gain: float,
) -> Reweighed:
    """Fit all weights on `cases` and try them on the held-out cases; nothing is written yet.

    The old rules stand if the new ones do not raise rho by `gain`, or if either could not be measured.
    """
    serving = [rule for rule in rules.all() if rule.state == "admitted" and rule.predicate]
    if not serving:
        return Reweighed({}, None, None)
    new = _fitted(serving, cases)
    before = _try_rules(backend, held_out, settings, [list(map(plain_rule, serving))] * len(held_out))
    after = _try_rules(backend, held_out, settings, [list(map(plain_rule, new.values()))] * len(held_out))
    if before.srcc is None or after.srcc is None:
        return Reweighed({}, before.srcc, after.srcc, before.unscored | after.unscored)
    return Reweighed(new if after.srcc > before.srcc + gain else {}, before.srcc, after.srcc)


def recount(
    rules: Sequence[Rule], backend: VLMBackend, cases: Sequence[Explored], settings: CritiqueSettings
) -> list[Explored]:
    """The same cases judged again under these rules alone: a record of their own for rules just made."""
    listed = list(map(plain_rule, rules))
    return [_judged_again(backend, case, listed, settings) for case in cases]


def plain_rule(rule: Rule) -> Json:
    """A rule as a judge sees it in a trial, where no retrieval has ranked it."""
    predicate = rule.predicate
    assert predicate is not None, "only rules that a program can test are mined or weighed"
    return {
        "id": rule.rule_id,
        "text": rule.text,
        "tags": list(rule.tags),
        "metric": predicate.metric,
        "comparison": predicate.comparison,
        "threshold": predicate.threshold,
        "weight": predicate.weight,
    }


@dataclass(frozen=True)
class _Trial:
    """What judging the held-out cases again came to."""

    srcc: float | None  # mean rho; None where a case came back without a score
    unscored: frozenset[str]  # the ids of those cases


def _untried(rules: RuleMemory, trial: str) -> list[Rule]:
    histories = rules.histories()
    return [
        rule
        for rule in rules.all()
        if rule.state == "quarantined" and rule.predicate
        if trial not in {change.held_out for change in histories[rule.rule_id]}
    ]


def _discrepancy(cases: Sequence[Explored]) -> Json:
    """The values of what was ranked too high and too low, by metric, and the tags that most of the cases
    share.
    """
    metrics: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        shift = _rank_shift(case)
        for item in case.brief.evidence:
            sides = metrics.setdefault(item["metric"], {"over": [], "under": []})
            for value, moved in zip(item["values"], shift, strict=True):
                if value is not None and abs(moved) > MISJUDGED * len(shift):
                    sides["over" if moved > 0 else "under"].append(round(value, 4))
    tags = [tag for case in cases for tag in case.brief.tags]
    shared = sorted({tag for tag in tags if tags.count(tag) > len(cases) / 2})
    return {"tags": shared[:4], "metrics": metrics}


def _rank_shift(case: Explored) -> Float[np.ndarray, "group"]:
    """By how many places each hypothesis was ranked too high; 0 for all where there is no full ranking."""
    if None in case.scores:
        return np.zeros(len(case.scores))
    given = places([-score for score in case.scores if score is not None])
    return (places(case.errors_mm) - given).astype(float)


def _violations(case: Explored, rules: Sequence[Rule]) -> Float[np.ndarray, "rules group"]:
    """Graded violations times the judge's trust in each metric here: weights are fitted on top of it."""
    measured = {item["metric"]: item for item in case.brief.evidence}
    trust = metric_trust(case.brief.prototypes, list(measured))
    rows = []
    for rule in rules:
        assert rule.predicate is not None
        item = measured.get(rule.predicate.metric)
        values = [None] * len(case.errors_mm) if item is None else item["values"]
        column = np.array([np.nan if value is None else value for value in values], float)
        unit = item["unit"] if item else ""
        graded = violation(column, rule.predicate.comparison, rule.predicate.threshold, unit)
        rows.append(trust.get(rule.predicate.metric, 1.0) * graded)
    return np.stack(rows)


def _with_weight(rule: Rule, weight: float) -> Rule:
    assert rule.predicate is not None
    return Rule.create(
        rule.text, rule.tags, rule.provenance, replace(rule.predicate, weight=round(weight, 3)), "admitted"
    )


def _try_rules(
    backend: VLMBackend,
    cases: Sequence[Explored],
    settings: CritiqueSettings,
    rules: Sequence[Sequence[Json]],
) -> _Trial:
    """Mean rho over the cases, each judged under its own rules; a tie of all hypotheses counts as 0.

    A case for which no rule is listed may have no score either: a judge that goes by rules alone has nothing to
    rank by there, and that is a tie.
    """
    judged = [
        _judged_again(backend, case, listed, settings) for case, listed in zip(cases, rules, strict=True)
    ]
    unscored = frozenset(
        case.case_id for case, listed in zip(judged, rules, strict=True) if listed and case.unscored
    )
    if unscored:
        return _Trial(None, unscored)
    found = [0.0 if case.srcc is None else case.srcc for case in judged]
    return _Trial(float(np.mean(found)) if found else 0.0, unscored)


def _judged_again(
    backend: VLMBackend, case: Explored, listed: Sequence[Json], settings: CritiqueSettings
) -> Explored:
    brief = replace(case.brief, rules=listed)
    return replace(case, scores=score_group(backend, brief, len(case.errors_mm), settings).scores)


def _write_trials(
    rules: RuleMemory,
    measured: Sequence[tuple[Rule, float, float]],
    admitted: Sequence[Rule],
    said: str,
    trial: str,
) -> None:
    """All trials or none; of each the mean rho without the rule and with it."""
    with rules.transaction():
        for rule, before, after in measured:
            state = "admitted" if rule in admitted else "quarantined"
            reason = f"rho {before:.4f} to {after:.4f} {said}"
            rules.set_state(rule.rule_id, state, reason, after - before, trial)


def _fitted(serving: Sequence[Rule], cases: Sequence[Explored]) -> dict[str, Rule]:
    """The rules with the weights that fit the cases, by the id of the one each would replace."""
    start = np.array([rule.predicate.weight for rule in serving if rule.predicate])
    fitted = fit_weights(
        [_violations(case, serving) for case in cases], [np.array(case.errors_mm) for case in cases], start
    )
    # Only relative weights matter; keep the scale people know.
    fitted *= start.sum() / max(fitted.sum(), 1e-9)
    return {
        rule.rule_id: _with_weight(rule, weight)
        for rule, weight in zip(serving, fitted.tolist(), strict=True)
    }
