"""Turns what is known of a group into the parts of a question, with hypotheses under their labels.

A `Brief` is all that scoring needs, so that a stored case can be judged again under other rules without
posing or rendering it anew: admission of mined rules works on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from agent.pictures.panels import Views, hypothesis_parts
from agent.prompts import load_prompt
from agent.prompts.prompt_format import format_metrics, format_prototypes, format_rules
from agent.types import RetrievedPrototype
from agent.vlm.protocol import DataPart, ImagePart, Part, Task, TextPart
from memory.rules import RetrievedRule

__all__ = ["Brief", "labelled_metrics", "prototype_json", "question", "rule_json"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Brief:
    """One group as a judge sees it; evidence, rules and prototypes as JSON, views by hypothesis (or none)."""

    evidence: Sequence[Json]
    rules: Sequence[Json]
    prototypes: Sequence[Json]
    tags: Sequence[str]
    photo: ImagePart | None = None
    views: Sequence[Views] = ()
    pictures: str = "separate"  # or "montage"

    def parts(self, labels: Mapping[str, int], task: Task, shown: Sequence[str] | None = None) -> list[Part]:
        """The question about the hypotheses that `labels` names (label -> index), with the pictures of those `shown`
        (None: of all)."""
        evidence = {"labels": list(labels), "metrics": labelled_metrics(self.evidence, labels)}
        chosen = labels if shown is None else shown
        views = {label: self.views[labels[label]] for label in chosen} if self.views else {}
        return [  # what all label orders share comes first: servers keep what they read of a common beginning
            *question(task, self.photo),
            *self._recalled,
            *hypothesis_parts(views, self.pictures),
            DataPart("evidence", evidence, format_metrics(evidence["metrics"])),
        ]

    @cached_property
    def _recalled(self) -> list[DataPart]:
        """The same for every label order, and so written out once."""
        return [
            DataPart("tags", list(self.tags)),
            DataPart("rules", list(self.rules), format_rules(self.rules)),
            DataPart("prototypes", list(self.prototypes), format_prototypes(self.prototypes)),
        ]


def question(task: Task, photo: ImagePart | None = None) -> list[Part]:
    """The instructions of a task, and the photograph for a backend with eyes."""
    return [TextPart(load_prompt(task).text), *([photo] if photo else [])]


def labelled_metrics(evidence: Sequence[Json], labels: Mapping[str, int]) -> Json:
    """{metric: {tool, unit, values by label, parts by label, sentences by label}}."""
    return {
        item["metric"]: {
            "tool": item["tool"],
            "unit": item["unit"],
            **{
                column: {label: item[column][j] for label, j in labels.items()}
                for column in ("values", "parts", "sentences")
            },
        }
        for item in evidence
    }


def rule_json(retrieved: RetrievedRule) -> Json:
    """A rule with its predicate unfolded (if it has one) and every term of its retrieval score."""
    rule, predicate = retrieved.rule, retrieved.rule.predicate
    return {
        "id": rule.rule_id,
        "text": rule.text,
        "tags": list(rule.tags),
        **(asdict(predicate) if predicate else {}),
        "uses": rule.uses,
        "successes": rule.successes,
        "similarity": round(retrieved.similarity, 4),
        "tag_overlap": round(retrieved.tag_overlap, 4),
        "success_rate": round(retrieved.success_rate, 4),
        "bonus": round(retrieved.bonus, 4),
        "psi": round(retrieved.score, 4),
    }


def prototype_json(retrieved: RetrievedPrototype) -> Json:
    prototype = retrieved.prototype
    return {
        "id": prototype.prototype_id,
        "similarity": round(retrieved.similarity, 4),
        "rationale": prototype.rationale,
        "score": prototype.score,
        "tags": list(prototype.tags),
        "evidence": prototype.evidence,
        "weights": prototype.weights,
    }
