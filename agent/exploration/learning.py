"""Learning from cases with known truth: mining rules, admitting them, and fitting their weights.

A new rule is evaluated on held-out cases, which are scored again from their briefs with and without it, and is admitted
only if mean Spearman's rho rises (`agent.exploration.trials`). A rule is immutable (its id is a hash of its content),
so a new weight makes a new rule of the same text, and the old one is retired. Each change of state is recorded with its
reason and, if a trial measured one, its gain. A trial in which the backend leaves a case unscored has no result:
nothing is recorded, and a later run repeats it.

Left out: images in the trial of a rule. A stored case has measurements but no renders, so vision-capable backends
also score candidates from the measurements.
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
from agent.scoring.ask import Answer, ask
from agent.scoring.scoring import score_group
from agent.types import QuestionFailure, unavailable_reason
from agent.vlm.embedded.critic import metric_trust
from agent.vlm.embedded.violations import violation
from agent.vlm.protocol import DataPart, VLMBackend
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory

__all__ = [
    "Explored",
    "Mined",
    "Trial",
    "WeightFit",
    "evaluate_rules",
    "fit_rule_weights",
    "listed_rule",
    "metric_agreement",
    "mine_rules",
    "ranks",
    "rescore",
    "with_fitted_weights",
]

Json = dict[str, Any]
MIN_RANK_ERROR = (
    0.25  # relative to the group's size; rules are mined from hypotheses with a larger error in rank
)


@dataclass(frozen=True)
class Explored:
    """A scored case and its true errors."""

    case_id: str
    brief: Brief
    scores: tuple[float | None, ...]
    errors_mm: tuple[float, ...]
    failures: tuple[QuestionFailure, ...] = ()  # of its questions to the backend; not stored

    @property
    def srcc(self) -> float | None:
        return group_spearman(self.scores, self.errors_mm)

    @property
    def unscored(self) -> bool:
        """Whether the backend left all scores None, or was unavailable to a question, so that the scores differ from
        those of a complete critique. The cause is not the rules: the case has to be critiqued again."""
        return all(score is None for score in self.scores) or bool(unavailable_reason(self.failures))

    def to_json(self) -> Json:
        """The memory's record of a case, from which a later process can learn.

        It contains the true errors: explored cases are labelled lab cases (method section 2), never wild images.
        """
        return {
            "evidence": self.brief.evidence,
            "rules": self.brief.rules,
            "prototypes": self.brief.prototypes,
            "tags": self.brief.tags,
            "scores": self.scores,
            "errors_mm": self.errors_mm,
        }

    @staticmethod
    def from_json(case_id: str, record: Json) -> Explored:
        brief = Brief(record["evidence"], record["rules"], record["prototypes"], record["tags"])
        return Explored(case_id, brief, tuple(record["scores"]), tuple(record["errors_mm"]))


@dataclass(frozen=True)
class Mined:
    """Rules that a backend derived from the errors of a batch, and its answer (None if the question failed)."""

    rules: list[Rule]
    answer: Answer[MineAnswer]


@dataclass(frozen=True)
class WeightFit:
    """Rules with fitted weights, by the id of the rule that each replaces; empty if they gain too little."""

    rules: dict[str, Rule]
    before: float | None  # mean rho on the held-out cases; None if a case has no score
    after: float | None
    unscored: frozenset[str] = frozenset()  # held-out cases without a score: the old rules stay
    failures: tuple[QuestionFailure, ...] = ()

    @property
    def changed(self) -> dict[str, Rule]:
        """The rules whose weight is new."""
        return {old: rule for old, rule in self.rules.items() if old != rule.rule_id}

    def write(self, memory: RuleMemory) -> None:
        """Admits the changed rules and retires the old ones. Raises FrozenMemoryError."""
        for old, rule in self.changed.items():
            assert self.before is not None, "rules change only if both trials have a result"
            assert self.after is not None
            gain = self.after - self.before
            reason = f"reweighed: rho {self.before:.4f} to {self.after:.4f} on held-out cases"
            memory.add([replace(rule, state="quarantined")], f"made from {old}")
            memory.set_state(rule.rule_id, "admitted", reason, gain)
            memory.set_state(old, "retired", f"replaced by {rule.rule_id}, the same with another weight")


def ranks(costs: Sequence[float]) -> Int[np.ndarray, "group"]:
    """The rank of every hypothesis, 0 for the lowest cost; ties in the order of the hypotheses."""
    return np.argsort(np.argsort(costs, kind="stable"))


def metric_agreement(case: Explored) -> dict[str, float]:
    """Spearman's rho of every metric with the true errors; a metric with equal values is left out."""
    agreement = {}
    for item in case.brief.evidence:
        costs = [None if value is None else -value for value in item["values"]]
        rho = group_spearman(costs, case.errors_mm)
        if rho is not None:
            agreement[item["metric"]] = round(rho, 4)
    return agreement


def mine_rules(backend: VLMBackend, seed: int, cases: Sequence[Explored]) -> Mined:
    """One or two quarantined rules, from the differences between scores and truth on these cases."""
    discrepancy = _discrepancy(cases)
    answer = ask(backend, "mine", [*question("mine"), DataPart("discrepancy", discrepancy)], MineAnswer, seed)
    worst = min(cases, key=lambda case: 1.0 if case.srcc is None else case.srcc)
    provenance = Provenance(kind="mined", backend=backend.name, case_id=worst.case_id)
    rules = []
    for mined in answer.value.rules if answer.value else []:
        if mined.metric not in discrepancy["metrics"]:
            continue
        predicate = Predicate(mined.metric, mined.comparison, mined.threshold, mined.weight)
        # The memory rejects web addresses and control characters; a rule with any is dropped.
        try:
            rules.append(Rule.create(mined.text, mined.tags, provenance, predicate))
        except ValueError:
            continue
    return Mined(rules, answer)


def fit_rule_weights(
    rules: RuleMemory,
    backend: VLMBackend,
    cases: Sequence[Explored],
    held_out: Sequence[Explored],
    settings: CritiqueSettings,
    min_gain: float,
) -> WeightFit:
    """Fit the weights of all admitted rules on `cases` and evaluate them on the held-out cases. Writes nothing.

    The old rules stay if the new ones do not raise rho by more than `min_gain`, or if a held-out case has no score.
    """
    admitted = [rule for rule in rules.all() if rule.state == "admitted" and rule.predicate]
    if not admitted:
        return WeightFit({}, None, None)
    fitted = with_fitted_weights(admitted, cases)
    before, after = (
        evaluate_rules(backend, held_out, settings, [list(map(listed_rule, listed))] * len(held_out))
        for listed in (admitted, fitted.values())
    )
    failures = before.failures + after.failures
    if before.srcc is None or after.srcc is None:
        return WeightFit({}, before.srcc, after.srcc, before.unscored | after.unscored, failures)
    gained = after.srcc > before.srcc + min_gain
    return WeightFit(fitted if gained else {}, before.srcc, after.srcc, failures=failures)


def rescore(
    rules: Sequence[Rule], backend: VLMBackend, cases: Sequence[Explored], settings: CritiqueSettings
) -> list[Explored]:
    """The same cases, scored again under these rules only: the first record of rules that were just made."""
    listed = list(map(listed_rule, rules))
    return [_rescore(backend, case, listed, settings) for case in cases]


def listed_rule(rule: Rule) -> Json:
    """A rule in the brief of a trial: as in `agent.prompts.question.rule_json`, without retrieval scores."""
    predicate = rule.predicate
    assert predicate is not None, "only rules with a predicate are mined or fitted"
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
class Trial:
    """The result of scoring the held-out cases again."""

    srcc: float | None  # mean rho; None if a case has no score
    unscored: frozenset[str]  # the ids of those cases
    failures: tuple[QuestionFailure, ...]


def _discrepancy(cases: Sequence[Explored]) -> Json:
    """By metric the values of hypotheses ranked too high ("over") and too low ("under"), and the tags that most of the
    cases share."""
    metrics: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        rank_errors = _rank_errors(case)
        for item in case.brief.evidence:
            sides = metrics.setdefault(item["metric"], {"over": [], "under": []})
            for value, error in zip(item["values"], rank_errors, strict=True):
                if value is not None and abs(error) > MIN_RANK_ERROR * len(rank_errors):
                    sides["over" if error > 0 else "under"].append(round(value, 4))
    tags = [tag for case in cases for tag in case.brief.tags]
    shared = sorted({tag for tag in tags if tags.count(tag) > len(cases) / 2})
    return {"tags": shared[:4], "metrics": metrics}


def _rank_errors(case: Explored) -> Float[np.ndarray, "group"]:
    """By how many ranks each hypothesis was ranked too high; 0 for all if a score is missing."""
    if None in case.scores:
        return np.zeros(len(case.scores))
    by_score = ranks([-score for score in case.scores if score is not None])
    return (ranks(case.errors_mm) - by_score).astype(float)


def _violations(case: Explored, rules: Sequence[Rule]) -> Float[np.ndarray, "rules group"]:
    """Graded violations times the critic's trust in each metric for this case, as the fitted weights multiply them."""
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


def evaluate_rules(
    backend: VLMBackend,
    cases: Sequence[Explored],
    settings: CritiqueSettings,
    rules: Sequence[Sequence[Json]],
) -> Trial:
    """Mean rho over the cases, each scored under its own rules; a case with equal scores counts as 0.

    A case without any rule may also have no score, because a critic that uses only rules cannot rank it. It counts as a
    tie.
    """
    scored = [_rescore(backend, case, listed, settings) for case, listed in zip(cases, rules, strict=True)]
    failures = tuple(failure for case in scored for failure in case.failures)
    unscored = frozenset(
        case.case_id for case, listed in zip(scored, rules, strict=True) if listed and case.unscored
    )
    if unscored:
        return Trial(None, unscored, failures)
    rhos = [case.srcc or 0.0 for case in scored]
    return Trial(float(np.mean(rhos)) if rhos else 0.0, unscored, failures)


def _rescore(
    backend: VLMBackend, case: Explored, listed: Sequence[Json], settings: CritiqueSettings
) -> Explored:
    brief = replace(case.brief, rules=listed)
    result = score_group(backend, brief, len(case.errors_mm), settings, case.case_id)
    return replace(case, scores=result.scores, failures=result.failures)


def with_fitted_weights(rules: Sequence[Rule], cases: Sequence[Explored]) -> dict[str, Rule]:
    """The rules with weights fitted on the cases, by the id of the rule that each would replace."""
    start = np.array([rule.predicate.weight for rule in rules if rule.predicate])
    fitted = fit_weights(
        [_violations(case, rules) for case in cases], [np.array(case.errors_mm) for case in cases], start
    )
    # Only ratios of weights matter; the sum stays the same, so that weights remain comparable.
    fitted *= start.sum() / max(fitted.sum(), 1e-9)
    return {
        rule.rule_id: _with_weight(rule, weight) for rule, weight in zip(rules, fitted.tolist(), strict=True)
    }
