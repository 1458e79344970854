"""Calls about a critic's memory: rules that apply to a kind of image, and the prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from agent.evidence_calls.calls import Arguments, CallResult, EvidenceCall
from agent.prompts.prompt_format import format_prototypes, format_rules
from agent.prompts.question import prototype_json, rule_json
from agent.types import RetrievedPrototype
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.text_limits import MAX_TAG_CHARS, MAX_TAGS

__all__ = ["LIST_PROTOTYPES", "RECALL_RULES", "MemorySource"]

MAX_QUERY_CHARS = 300
MAX_PROTOTYPES = 64


@dataclass(frozen=True)
class MemorySource:
    """A memory; `frozen`: rules are retrieved without the exploration bonus."""

    rules: RuleMemory
    prototypes: PrototypeMemory
    frozen: bool
    rules_per_call: int


class RecallArguments(Arguments):
    """Of the call recall_rules."""

    query: Annotated[
        str, Field(max_length=MAX_QUERY_CHARS, description="The person and the image in a few plain words.")
    ]
    tags: Annotated[
        list[Annotated[str, Field(max_length=MAX_TAG_CHARS)]],
        Field(max_length=MAX_TAGS, description="Kinds of image, such as occluded:legs; may be empty."),
    ]


class ListArguments(Arguments):
    """Of the call list_prototypes, which has none."""


def _recall(source: MemorySource, arguments: RecallArguments) -> CallResult:
    found = source.rules.retrieve(
        arguments.query, arguments.tags, source.rules_per_call, frozen=source.frozen
    )
    rules = [rule_json(item) for item in found]
    return CallResult({"rules": rules}, format_rules(rules), rules=tuple(found))


def _list(source: MemorySource, arguments: ListArguments) -> CallResult:
    known = [RetrievedPrototype(item, 1.0) for item in source.prototypes.all()[:MAX_PROTOTYPES]]
    rows = [prototype_json(item) for item in known]
    shown = [{key: value for key, value in row.items() if key != "similarity"} for row in rows]
    return CallResult({"count": len(source.prototypes), "prototypes": shown}, format_prototypes(rows))


RECALL_RULES: EvidenceCall[MemorySource] = EvidenceCall(
    "recall_rules",
    "Recall the rules of the critic's memory that apply to an image, the most relevant first.",
    RecallArguments,
    _recall,
)
LIST_PROTOTYPES: EvidenceCall[MemorySource] = EvidenceCall(
    "list_prototypes",
    f"List the judged cases of the critic's memory with their rationale and score, at most {MAX_PROTOTYPES}.",
    ListArguments,
    _list,
)
