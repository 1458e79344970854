"""Builds the parts of a question about a group, with hypotheses named by their labels.

A `Brief` contains everything that scoring needs. A stored case can therefore be scored again under other rules without
posing or rendering it again, which the admission of mined rules does.
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
from memory.rule_memory import RetrievedRule

__all__ = ["Brief", "labelled_metrics", "prototype_json", "question", "rule_json"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Brief:
    """The content of questions about one group: evidence, rules and prototypes as JSON, views per hypothesis."""

    evidence: Sequence[Json]
    rules: Sequence[Json]
    prototypes: Sequence[Json]
    tags: Sequence[str]
    photo: ImagePart | None = None
    views: Sequence[Views] = ()
    pictures: str = "separate"  # or "montage"

    def parts(self, labels: Mapping[str, int], task: Task, shown: Sequence[str] | None = None) -> list[Part]:
        """The question about the hypotheses in `labels` (label -> index), with pictures of the labels in `shown`
        (None: all)."""
        evidence = {"labels": list(labels), "metrics": labelled_metrics(self.evidence, labels)}
        chosen = labels if shown is None else shown
        views = {label: self.views[labels[label]] for label in chosen} if self.views else {}
        return [  # parts that all label orders share come first: servers cache a common prefix
            *question(task, self.photo),
            *self._retrieved,
            *hypothesis_parts(views, self.pictures),
            DataPart("evidence", evidence, format_metrics(evidence["metrics"])),
        ]

    @cached_property
    def _retrieved(self) -> list[DataPart]:
        """Equal for all label orders, so formatted once."""
        return [
            DataPart("tags", list(self.tags)),
            DataPart("rules", list(self.rules), format_rules(self.rules)),
            DataPart("prototypes", list(self.prototypes), format_prototypes(self.prototypes)),
        ]


def question(task: Task, photo: ImagePart | None = None) -> list[Part]:
    """The instructions of a task, and the photograph if there is one."""
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
    """A rule with the fields of its predicate, if it has one, and the terms of its retrieval score."""
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
