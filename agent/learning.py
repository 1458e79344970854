"""What an agent learns from cases whose truth is known: new rules, and how much each should count.

Nothing enters service unseen: a candidate is tried on held-out cases, judged again from their briefs with and
without it, and is admitted only if mean Spearman's rho rises. A rule is immutable (its id is a hash of its
content), so a new weight makes a new rule of the same text, and the one it replaces retires.

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
from agent.briefing import Brief, question
from agent.calibrate import fit_weights
from agent.context import CritiqueSettings
from agent.judging import score_group
from agent.violations import violation
from agent.vlm.answers import MineAnswer
from agent.vlm.ask import ask
from agent.vlm.embedded import metric_trust
from agent.vlm.protocol import DataPart, VLMBackend
from memory.rules import Predicate, Provenance, Rule, RuleMemory

__all__ = [
    "Explored",
    "admit_quarantined",
    "metric_agreement",
    "mine_rules",
    "places",
    "plain_rule",
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


def mine_rules(backend: VLMBackend, seed: int, cases: Sequence[Explored]) -> list[Rule]:
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
    return rules


def admit_quarantined(
    rules: RuleMemory,
    backend: VLMBackend,
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    gain: float,
) -> list[Rule]:
    """Try every quarantined rule on the held-out cases, one after the other; those that raise rho by `gain`
    serve.
    """
    admitted: list[Rule] = []
    best = _mean_srcc(backend, held_out, settings, [case.brief.rules for case in held_out])
    for rule in [rule for rule in rules.all() if rule.state == "quarantined"]:
        trial = [[*case.brief.rules, *map(plain_rule, [*admitted, rule])] for case in held_out]
        srcc = _mean_srcc(backend, held_out, settings, trial)
        if srcc > best + gain:
            rules.set_state(rule.rule_id, "admitted")
            admitted.append(rule)
            best = srcc
    return admitted


def reweigh(
    rules: RuleMemory,
    backend: VLMBackend,
    cases: Sequence[Explored],
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    gain: float,
) -> dict[str, Rule]:
    """Fit all weights on `cases`; if that raises rho on the held-out cases, the reweighed rules replace the
    old.

    Returns the new rules by the id of the one each replaces; empty if nothing was gained.
    """
    serving = [rule for rule in rules.all() if rule.state == "admitted" and rule.predicate]
    start = np.array([rule.predicate.weight for rule in serving if rule.predicate])
    fitted = fit_weights(
        [_violations(case, serving) for case in cases], [np.array(case.errors_mm) for case in cases], start
    )
    fitted *= start.sum() / max(
        fitted.sum(), 1e-9
    )  # only relative weights matter; keep the scale people know
    new = {
        rule.rule_id: _with_weight(rule, weight)
        for rule, weight in zip(serving, fitted.tolist(), strict=True)
    }
    before = _mean_srcc(backend, held_out, settings, [list(map(plain_rule, serving))] * len(held_out))
    after = _mean_srcc(backend, held_out, settings, [list(map(plain_rule, new.values()))] * len(held_out))
    if after <= before + gain:
        return {}
    rules.add(list(new.values()))
    for old, rule in new.items():
        if old != rule.rule_id:
            rules.set_state(old, "retired")
    return new


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


def _mean_srcc(
    backend: VLMBackend,
    cases: Sequence[Explored],
    settings: CritiqueSettings,
    rules: Sequence[Sequence[Json]],
) -> float:
    """Mean rho over the cases, each judged under its own rules; a case without a ranking counts as 0."""
    found = []
    for case, listed in zip(cases, rules, strict=True):
        result = score_group(backend, replace(case.brief, rules=listed), len(case.errors_mm), settings)
        found.append(group_spearman(result.scores, case.errors_mm) or 0.0)
    return float(np.mean(found)) if found else 0.0
