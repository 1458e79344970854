"""The embedded critic: a backend without weights that reads the evidence as numbers instead of prose.

It answers the same five questions through the same protocol as a language model, deterministically:

tag      thresholds on the image's facts (joint confidences, box, the group's median pose)
score    every retrieved rule with a predicate prices its violation: see the table
reflect  doubts a hypothesis whose rank moves between permutations, or contradicts the body that the best agree on;
         with one in doubt the photograph is read again, and that may move them all
revise   prices the doubted ones again, what was measured again in the place of what was measured first
mine     the one or two thresholds that best separate what was ranked too high from what was ranked too low

| symbol | meaning                                                                                      |
|--------|----------------------------------------------------------------------------------------------|
| w_r    | the weight of rule r                                                                         |
| z_rj   | its graded violation by hypothesis j (`agent/vlm/embedded/violations.py`)                                 |
| a_r    | trust in its metric: how well that agreed with the truth on the most similar explored cases  |
| p_j    | price, sum_r w_r a_r z_rj / sum_r w_r a_r                                                    |
| s_j    | score, 100 / (1 + exp(2 p_j))                                                                |

Label order means nothing to it, so in its place each permutation's seed perturbs the weights (a Bayesian
bootstrap over rules: Rubin, Annals of Statistics 9, 1981): rank dispersion then says how far a verdict hangs
on single rules. Text and images are ignored. Left out: interactions between rules, and kernel regression from
prototypes' evidence to scores, which ranked no better than the trust alone.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from agent.vlm.embedded.mining import mine
from agent.vlm.embedded.tagging import tags_of
from agent.vlm.embedded.violations import violation
from agent.vlm.protocol import Capabilities, DataPart, Part, Reply, Unanswerable

__all__ = ["EmbeddedCritic", "metric_trust"]

Json = dict[str, Any]
Matrix = Float[np.ndarray, "rules group"]

JITTER_SHAPE = 8.0  # of the gamma that perturbs a rule's weight: mean 1, standard deviation 0.35
TRUST_FLOOR = (
    0.25  # a metric that failed on similar cases still counts this much, relative to the mean metric
)
CONTRADICTION = 1 / 8  # of the group: a gap in rank (of more than 1) between verdict and second look
READ_AGAIN = "others of its group are in doubt, and the photograph is read again"


class EmbeddedCritic:
    """Deterministic critic without weights; passes tests/contracts/test_vlm_backends.py."""

    name = "embedded"
    revision = "1"
    capabilities = Capabilities(images=False)

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Answer the task that the schema's title names. Raises Unanswerable if no rule fits the evidence."""
        start = time.perf_counter()
        data = {part.name: part.data for part in parts if isinstance(part, DataPart)}
        answer = self._tasks[schema["title"]](data, seed)
        return Reply(json.dumps(answer), ms=(time.perf_counter() - start) * 1e3)

    @property
    def _tasks(self) -> dict[str, Callable[[Json, int], Json]]:
        return {
            "tag": lambda data, _: {"tags": tags_of(data["image_facts"])},
            "score": _score,
            "reflect": lambda data, _: _reflect(data),
            "revise": lambda data, _: _revise(data),
            "mine": lambda data, _: {"rules": mine(data["discrepancy"])},
        }


def _score(data: Json, seed: int) -> Json:
    rules, prices = _priced_rules(data, seed)
    return _verdicts(data, data["evidence"]["labels"], prices.sum(axis=0), rules, prices)


def _revise(data: Json) -> Json:
    first, again = data["evidence"]["metrics"], data["second_look"]
    metrics = {name: again.get(name, metric) for name, metric in first.items()}
    data = {**data, "evidence": {**data["evidence"], "metrics": metrics}}
    rules, prices = _priced_rules(data)
    return _verdicts(data, list(data["doubts"]), prices.sum(axis=0), rules, prices)


def _reflect(data: Json) -> Json:
    reasons = _doubts(data)
    if any(reasons.values()):
        reasons = {label: reason or READ_AGAIN for label, reason in reasons.items()}
    return {label: {"doubt": bool(reason), "reason": reason} for label, reason in reasons.items()}


def _doubts(data: Json) -> dict[str, str]:
    """What speaks against each score, in words; empty where nothing does."""
    labels, scores = data["evidence"]["labels"], data["scores"]
    verdict_rank = _ranks(-np.array([scores[label] for label in labels], float))
    evidence_rank = _ranks(_second_look(data))
    reasons = {}
    for j, label in enumerate(labels):
        moved, gap = data["rank_std"][label], abs(verdict_rank[j] - evidence_rank[j])
        reasons[label] = ""
        if moved > data["dispersion_threshold"]:
            reasons[label] = f"its rank moves by {moved:.1f} places when the rules are weighed differently"
        elif gap > max(1.0, CONTRADICTION * len(labels)):
            reasons[label] = (
                f"ranked {verdict_rank[j] + 1:.0f} but the second look puts it at {evidence_rank[j] + 1:.0f}"
            )
    return reasons


def _priced_rules(data: Json, seed: int | None = None) -> tuple[list[Json], Matrix]:
    """The rules that apply to the evidence at hand, and what each charges each hypothesis; a seed perturbs
    weights.
    """
    metrics, labels = data["evidence"]["metrics"], data["evidence"]["labels"]
    rules = sorted(
        (rule for rule in data["rules"] if rule.get("metric") in metrics), key=lambda rule: rule["id"]
    )
    trust = metric_trust(data["prototypes"], sorted({rule["metric"] for rule in rules}))
    weights = np.array([rule["weight"] * trust[rule["metric"]] for rule in rules])
    if seed is not None:
        weights = weights * [_jitter(rule["id"], seed) for rule in rules]
    if not weights.sum() > 0:
        raise Unanswerable("no retrieved rule applies to the evidence at hand")
    violations = np.stack([_violations(metrics[rule["metric"]], labels, rule) for rule in rules])
    return rules, violations * (weights / weights.sum())[:, None]


def _jitter(rule_id: str, seed: int) -> float:
    """Keyed by the rule, so that adding one rule perturbs no other."""
    rng = np.random.default_rng([zlib.crc32(rule_id.encode()), seed])
    return rng.gamma(JITTER_SHAPE, 1 / JITTER_SHAPE)


def _violations(metric: Json, labels: list[str], rule: Json) -> Float[np.ndarray, "group"]:
    return violation(_column(metric, labels), rule["comparison"], rule["threshold"], metric["unit"])


def _column(metric: Json, labels: list[str]) -> Float[np.ndarray, "group"]:
    return np.array(
        [np.nan if metric["values"][label] is None else metric["values"][label] for label in labels], float
    )


def metric_trust(prototypes: Sequence[Json], metrics: Sequence[str]) -> dict[str, float]:
    """How much each metric counts here, 1 on average: its mean agreement with the truth on similar explored
    cases.

    The mean over prototypes is weighted by the cosine of the photographs; 1 everywhere without prototypes.
    """
    agreement = {}
    for metric in metrics:
        seen = [
            (max(p["similarity"], 0.0), p["weights"][metric]) for p in prototypes if metric in p["weights"]
        ]
        mass = sum(similarity for similarity, _ in seen)
        if mass > 0:
            agreement[metric] = max(0.0, sum(similarity * rho for similarity, rho in seen) / mass)
    mean = sum(agreement.values()) / len(agreement) if agreement else 0.0
    return {m: max(TRUST_FLOOR, agreement[m] / mean) if mean > 0 and m in agreement else 1.0 for m in metrics}


def _second_look(data: Json) -> Float[np.ndarray, "group"]:
    labels = data["evidence"]["labels"]
    looks = data["second_look"].values()
    return np.mean([violation(_column(look, labels), ">", 0.0, look["unit"]) for look in looks], axis=0)


def _verdicts(
    data: Json, wanted: list[str], total: Float[np.ndarray, "group"], rules: list[Json], prices: Matrix
) -> Json:
    labels = data["evidence"]["labels"]
    scores = 100 / (1 + np.exp(2 * total))
    answer = {}
    for label in wanted:
        j = labels.index(label)
        worst = rules[int(prices[:, j].argmax())]
        comment = _comment(data["evidence"]["metrics"][worst["metric"]], label, worst, prices[:, j].max())
        answer[label] = {"comment": comment, "score": round(float(scores[j]), 3)}
    return answer


def _comment(metric: Json, label: str, rule: Json, price: float) -> str:
    if price <= 0:
        return "No rule finds it worse than the group."
    value = metric["values"][label]
    said = metric["sentences"][label] or f"{rule['metric']} is {value:.3g}"
    return f"{said.rstrip('.')} (rule: {rule['text'].rstrip('.')})."[:400]


def _ranks(costs: Float[np.ndarray, "group"]) -> Float[np.ndarray, "group"]:
    """0 for the lowest cost; ties share their mean rank."""
    below = (costs[:, None] > costs[None, :]).sum(axis=1)
    ties = (costs[:, None] == costs[None, :]).sum(axis=1)
    return below + (ties - 1) / 2
