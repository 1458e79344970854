"""The embedded critic: a backend without weights that computes its answers from the evidence as numbers.

It answers five tasks of the protocol deterministically, all but "act":

tag      thresholds on the facts about the image (joint confidences, box, the group's median pose)
score    every retrieved rule with a predicate adds a penalty for its violation (table below)
reflect  a hypothesis is uncertain if its rank differs between permutations or contradicts the consensus body of the
         best hypotheses; if one is uncertain, all are, because the photograph is read again
revise   penalties again for the uncertain hypotheses, with the new measurements in place of the first ones
mine     the one or two thresholds that best separate hypotheses ranked too high from hypotheses ranked too low

| symbol | meaning                                                                                             |
|--------|-----------------------------------------------------------------------------------------------------|
| w_r    | the weight of rule r                                                                                |
| z_rj   | its graded violation by hypothesis j (`agent/vlm/embedded/violations.py`)                           |
| a_r    | trust in its metric: the metric's agreement with the true error on the most similar explored cases  |
| p_j    | penalty, sum_r w_r a_r z_rj / sum_r w_r a_r                                                         |
| s_j    | score, 100 / (1 + exp(2 p_j))                                                                       |

The order of the labels has no effect. Instead, the seed of each permutation perturbs the weights (a Bayesian bootstrap
over rules: Rubin, Annals of Statistics 9, 1981), so the rank dispersion measures how much a score depends on single
rules. Text and images are ignored. Left out: interactions between rules, and kernel regression from the evidence of
prototypes to scores, which ranked no better than the trust alone.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from agent.vlm.embedded.violations import violation
from agent.vlm.protocol import Capabilities, DataPart, Part, Reply, Unanswerable

__all__ = ["EmbeddedCritic", "image_tags", "metric_trust", "mine"]

Json = dict[str, Any]
Matrix = Float[np.ndarray, "rules group"]

JITTER_SHAPE = 8.0  # of the gamma that perturbs a rule's weight: mean 1, standard deviation 0.35
TRUST_FLOOR = 0.25  # least trust in a metric, relative to the mean over the metrics
MIN_COST = 0.025  # share of the penalty that is worth a comment: about one point of the score
CONTRADICTION = 1 / 8  # share of the group: a larger difference in rank (and above 1) makes a score uncertain
REOBSERVED = "other hypotheses of the group are uncertain, and the photograph is read again"


class EmbeddedCritic:
    """Deterministic critic without weights; passes tests/contracts/test_vlm_backends.py."""

    name = "embedded"
    revision = "2"
    capabilities = Capabilities(images=False, tool_calls="none")

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Answer the task in the schema's title. Raises Unanswerable if no rule applies to the evidence."""
        start = time.perf_counter()
        data = {part.name: part.data for part in parts if isinstance(part, DataPart)}
        answer = self._tasks[schema["title"]](data, seed)
        return Reply(json.dumps(answer), ms=(time.perf_counter() - start) * 1e3)

    @property
    def _tasks(self) -> dict[str, Callable[[Json, int], Json]]:
        return {
            "tag": lambda data, _: {"tags": image_tags(data["image_facts"])},
            "score": _score,
            "reflect": lambda data, _: _reflect(data),
            "revise": lambda data, _: _revise(data),
            "mine": lambda data, _: {"rules": mine(data["discrepancy"])},
        }


def _score(data: Json, seed: int) -> Json:
    return _verdicts(data, data["evidence"]["labels"], *_penalties(data, seed))


def _revise(data: Json) -> Json:
    first, again = data["evidence"]["metrics"], data["later_evidence"]
    metrics = {name: again.get(name, metric) for name, metric in first.items()}
    data = {**data, "evidence": {**data["evidence"], "metrics": metrics}}
    return _verdicts(data, list(data["uncertain"]), *_penalties(data))


def _reflect(data: Json) -> Json:
    reasons = _uncertain_reasons(data)
    if any(reasons.values()):
        reasons = {label: reason or REOBSERVED for label, reason in reasons.items()}
    return {label: {"uncertain": bool(reason), "reason": reason} for label, reason in reasons.items()}


def _uncertain_reasons(data: Json) -> dict[str, str]:
    """Why each score is uncertain, by label; empty if it is not."""
    labels, scores = data["evidence"]["labels"], data["scores"]
    verdict_rank = _ranks(-np.array([scores[label] for label in labels], float))
    evidence_rank = _ranks(_consensus_penalty(data))
    reasons = {}
    for j, label in enumerate(labels):
        moved, gap = data["rank_std"][label], abs(verdict_rank[j] - evidence_rank[j])
        reasons[label] = ""
        if moved > data["dispersion_threshold"]:
            reasons[label] = f"its rank moves by {moved:.1f} places when the rules get other weights"
        elif gap > max(1.0, CONTRADICTION * len(labels)):
            reasons[label] = (
                f"ranked {verdict_rank[j] + 1:.0f}, but {evidence_rank[j] + 1:.0f} by the new measurements"
            )
    return reasons


def _penalties(data: Json, seed: int | None = None) -> tuple[list[Json], Matrix]:
    """The rules that apply to the evidence, and the penalty of each rule for each hypothesis.

    seed: perturbs the weights of the rules; None leaves them as they are.
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
        raise Unanswerable("no retrieved rule applies to the evidence")
    violations = np.stack([_violations(metrics[rule["metric"]], labels, rule) for rule in rules])
    return rules, violations * (weights / weights.sum())[:, None]


def _jitter(rule_id: str, seed: int) -> float:
    """Depends on the rule's id, so another rule in the list does not change it."""
    rng = np.random.default_rng([zlib.crc32(rule_id.encode()), seed])
    return rng.gamma(JITTER_SHAPE, 1 / JITTER_SHAPE)


def _violations(metric: Json, labels: list[str], rule: Json) -> Float[np.ndarray, "group"]:
    return violation(_column(metric, labels), rule["comparison"], rule["threshold"], metric["unit"])


def _column(metric: Json, labels: list[str]) -> Float[np.ndarray, "group"]:
    return np.array(
        [np.nan if metric["values"][label] is None else metric["values"][label] for label in labels], float
    )


def metric_trust(prototypes: Sequence[Json], metrics: Sequence[str]) -> dict[str, float]:
    """The trust in each metric, 1 on average: its mean agreement with the true error on similar explored cases.

    The mean over prototypes is weighted by the cosine similarity of the photographs. Without prototypes all are 1.
    """
    agreement = {}
    for metric in metrics:
        cases = [
            (max(p["similarity"], 0.0), p["weights"][metric]) for p in prototypes if metric in p["weights"]
        ]
        total = sum(similarity for similarity, _ in cases)
        if total > 0:
            agreement[metric] = max(0.0, sum(similarity * rho for similarity, rho in cases) / total)
    mean = sum(agreement.values()) / len(agreement) if agreement else 0.0
    return {m: max(TRUST_FLOOR, agreement[m] / mean) if mean > 0 and m in agreement else 1.0 for m in metrics}


def _consensus_penalty(data: Json) -> Float[np.ndarray, "group"]:
    """Mean violation over the measurements that were made after scoring."""
    labels, metrics = data["evidence"]["labels"], data["later_evidence"].values()
    return np.mean(
        [violation(_column(metric, labels), ">", 0.0, metric["unit"]) for metric in metrics], axis=0
    )


def _verdicts(data: Json, requested: list[str], rules: list[Json], penalties: Matrix) -> Json:
    labels = data["evidence"]["labels"]
    scores = 100 / (1 + np.exp(2 * penalties.sum(axis=0)))
    answer = {}
    for label in requested:
        j = labels.index(label)
        comment = _comment(data["evidence"]["metrics"], label, rules, penalties[:, j])
        answer[label] = {"comment": comment, "score": round(float(scores[j]), 3)}
    return answer


def _comment(metrics: Json, label: str, rules: list[Json], penalties: Float[np.ndarray, "rules"]) -> str:
    """What cost the score: the metric with the largest sum of penalties, its value beside the group's, and the rule."""
    cost: dict[str, float] = {}
    for rule, penalty in zip(rules, penalties, strict=True):
        cost[rule["metric"]] = cost.get(rule["metric"], 0.0) + float(penalty)
    name = max(cost, key=lambda metric: cost[metric])
    if cost[name] < MIN_COST:
        return "No rule finds it clearly worse than the group."
    metric = metrics[name]
    of_metric = [
        (float(p), rule["text"]) for p, rule in zip(penalties, rules, strict=True) if rule["metric"] == name
    ]
    known = [value for value in metric["values"].values() if value is not None]
    numbers = f"{name} {metric['values'][label]:.3g}, median of the group {float(np.median(known)):.3g}"
    # a sentence about a body without a fault praises what cost it the score; some tools never name parts
    is_fault = metric["parts"][label] or not any(metric["parts"].values())
    sentence = metric["sentences"][label].rstrip(".") if is_fault else "Worse than its group"
    rule_text = max(of_metric)[1].rstrip(".")
    return f"{sentence}{': ' if sentence else ''}{numbers} (rule: {rule_text})."


def _ranks(costs: Float[np.ndarray, "group"]) -> Float[np.ndarray, "group"]:
    """0 for the lowest cost; equal costs share their mean rank."""
    below = (costs[:, None] > costs[None, :]).sum(axis=1)
    ties = (costs[:, None] == costs[None, :]).sum(axis=1)
    return below + (ties - 1) / 2


OCCLUDED = 0.4  # a limb is occluded if the mean confidence of its joints is lower
OUTSIDE = 0.02  # share of the box outside the image
RAISED_MM = 0.0  # least height of a wrist above the shoulder
LOW_RESOLUTION_PX = 96


def image_tags(facts: dict[str, Any]) -> list[str]:
    """Tags of the form `kind:value`, such as occluded:legs, truncated:bottom, pose:sitting, facing:away."""
    tags = [f"occluded:{part}" for part, confidence in facts["confidence"].items() if confidence < OCCLUDED]
    tags += [f"truncated:{side}" for side, share in facts["outside"].items() if share > OUTSIDE]
    tags += [f"pose:{_pose(facts)}", f"facing:{_facing(facts['facing_z'])}"]
    if facts["wrist_above_shoulder_mm"] > RAISED_MM:
        tags.append("arms:raised")
    if facts["box_px"] < LOW_RESOLUTION_PX:
        tags.append("resolution:low")
    return tags


def _pose(facts: dict[str, Any]) -> str:
    if facts["torso_tilt_deg"] > 60:
        return "lying"
    if facts["hip_flexion_deg"] > 60:
        return "sitting"
    return "bent" if facts["torso_tilt_deg"] > 30 else "upright"


def _facing(facing_z: float) -> str:
    if abs(facing_z) < 0.5:
        return "side"
    return "away" if facing_z > 0 else "camera"


MIN_COUNT = 8  # over-ranked and under-ranked hypotheses, each
MIN_J = 0.25
MAX_RULES = 2
MAX_WEIGHT = 3.0


def mine(discrepancy: dict[str, Any]) -> list[dict[str, Any]]:
    """At most two rules from `{"tags": [...], "metrics": {metric: {"over": [...], "under": [...]}}}`.

    For every metric and every threshold between its values, Youden's J (Cancer 3, 1950) is the share of over-ranked
    hypotheses above the threshold minus the share of under-ranked ones. The best thresholds of the two best metrics
    become rules if J is large enough and there are enough hypotheses. The weight is the log odds ratio, with 1/2 added
    to each count.
    """
    found = []
    for metric, groups in discrepancy["metrics"].items():
        over, under = np.array(groups["over"], float), np.array(groups["under"], float)
        if min(len(over), len(under)) >= MIN_COUNT:
            found.append((*_best_threshold(over, under), metric))
    found.sort(reverse=True)
    return [_rule(theta, metric, discrepancy) for j, theta, metric in found[:MAX_RULES] if j >= MIN_J]


def _best_threshold(
    over: Float[np.ndarray, "over"], under: Float[np.ndarray, "under"]
) -> tuple[float, float]:
    thresholds = np.unique(np.concatenate([over, under]))[:-1]
    if not len(thresholds):
        return 0.0, 0.0
    youden = (over[:, None] > thresholds).mean(axis=0) - (under[:, None] > thresholds).mean(axis=0)
    best = int(youden.argmax())
    return float(youden[best]), float(thresholds[best])


def _rule(theta: float, metric: str, discrepancy: dict[str, Any]) -> dict[str, Any]:
    groups = discrepancy["metrics"][metric]
    theta = float(f"{theta:.3g}")
    over, under = np.array(groups["over"]) > theta, np.array(groups["under"]) > theta
    odds = (over.sum() + 0.5) * ((~under).sum() + 0.5) / (((~over).sum() + 0.5) * (under.sum() + 0.5))
    return {
        "text": f"Distrust a hypothesis whose {metric} exceeds {theta:g}: such hypotheses were ranked too high.",
        "tags": discrepancy["tags"],
        "metric": metric,
        "comparison": ">",
        "threshold": theta,
        "weight": round(min(MAX_WEIGHT, max(0.0, math.log(odds))), 3),
    }
