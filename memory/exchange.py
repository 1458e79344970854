"""A memory as one JSON file: to keep, to read, to send, to merge into another.

    {"format": "meshcritic-memory", "version": 1, "text_embedder": ..., "image_embedder": ...,
     "rules": [{"rule": {...}, "history": [...]}], "cases": [{"case_id", "success", "rules", "judged",
     "recounts"}], "steps": [...], "prototypes": [{"prototype": {...}, "embedding": "base64 of little-endian float32"}]}

Rules travel without their embeddings: whoever imports them embeds the sentences with a model of their own.
Photographs do not travel at all, so prototypes bring their embeddings and fit only a memory that looks at
photographs through the same model. Ids are taken anew from the content, so that a file may be written by hand
and cannot claim an id that is another rule's.

A file is a stranger's until its reader says otherwise: it is parsed as JSON and checked field by field, what was kept
of a judged case included (`memory.case_schema`), and every sentence, and every name that stands beside one in a prompt,
passes `memory.text_limits`. Another memory's folder is no less a stranger's and goes the same way.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float32
from pydantic import TypeAdapter, ValidationError

from memory.case_schema import Judged, JudgedCase
from memory.folder import open_stored
from memory.ledger import RuleLedger
from memory.prototypes import Prototype, prototype_from_row
from memory.rule import Rule, StateChange
from memory.store import MemoryStore
from memory.text_limits import check_text

__all__ = [
    "CaseRecord",
    "MemoryDocument",
    "PrototypeRecord",
    "RuleRecord",
    "read_document",
    "read_memory",
    "snapshot",
    "write_document",
]

VERSION = 1


@dataclass(frozen=True)
class RuleRecord:
    rule: Rule
    history: tuple[StateChange, ...] = ()


@dataclass(frozen=True)
class CaseRecord:
    """A recorded case; `judged` is what exploration keeps of it to fit weights on (`agent.exploration.learning`)."""

    case_id: str
    success: bool
    rules: tuple[str, ...]
    judged: Judged | None = None
    recounts: dict[str, bool] = field(default_factory=dict)  # judged again under this rule: was it a success?


@dataclass(frozen=True)
class PrototypeRecord:
    prototype: Prototype
    embedding: str  # base64

    @property
    def vector(self) -> Float32[np.ndarray, "dim"]:
        return np.frombuffer(base64.b64decode(self.embedding), "<f4").astype(np.float32)


@dataclass(frozen=True)
class MemoryDocument:
    """All that a memory holds; its rules' counts are for the reader, the cases are what is counted."""

    format: Literal["meshcritic-memory"]
    version: int
    text_embedder: str | None
    image_embedder: str | None
    rules: tuple[RuleRecord, ...]
    cases: tuple[CaseRecord, ...] = ()
    steps: tuple[str, ...] = ()
    prototypes: tuple[PrototypeRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version} is not one that this program reads; it reads {VERSION}")
        known = {kept.rule.rule_id for kept in self.rules}
        if strange := sorted(
            {rule_id for case in self.cases for rule_id in (*case.rules, *case.recounts)} - known
        ):
            raise ValueError(f"its cases used a rule that it does not hold: {strange[0]!r}")
        if len({len(kept.embedding) for kept in self.prototypes}) > 1:
            raise ValueError("its prototypes have embeddings of different lengths")
        if self.prototypes and self.image_embedder is None:
            raise ValueError(
                "its prototypes need an image_embedder, the name of the model that embedded them"
            )


def snapshot(store: MemoryStore) -> MemoryDocument:
    """What a store holds now."""
    ledger = RuleLedger(store)
    histories, cases = ledger.histories(), ledger.cases()
    judged = cast(Mapping[str, JudgedCase], ledger.explored([case_id for case_id, _, _ in cases]))
    recounts = ledger.recounts()
    return MemoryDocument(
        format="meshcritic-memory",
        version=VERSION,
        text_embedder=store.meta("text_embedder"),
        image_embedder=store.meta("image_embedder"),
        rules=tuple(RuleRecord(rule, tuple(histories[rule.rule_id])) for rule in ledger.all()),
        cases=tuple(
            CaseRecord(case_id, success, tuple(used), judged.get(case_id), recounts.get(case_id, {}))
            for case_id, success, used in cases
        ),
        steps=tuple(ledger.steps()),
        prototypes=tuple(
            PrototypeRecord(prototype_from_row(row), base64.b64encode(row["embedding"]).decode())
            for row in store.read("SELECT * FROM prototypes ORDER BY number")
        ),
    )


def write_document(document: MemoryDocument, path: Path) -> None:
    """In one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(_as_json(document), encoding="utf-8")
    partial.replace(path)


def read_document(path: Path) -> MemoryDocument:
    """Raises FileNotFoundError, and ValueError naming what is wrong in a file that is no memory."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return _checked(path.read_bytes(), f"{path} is not an exported memory")


def read_memory(folder: Path) -> MemoryDocument:
    """What the memory in another folder holds; nothing there changes. Raises as `read_document` does."""
    with open_stored(folder, frozen=True) as store:
        content = _as_json(snapshot(store))
    return _checked(content.encode(), f"{folder} is not a memory that can be taken in")


def _as_json(document: MemoryDocument) -> str:
    return json.dumps(asdict(document), indent=1, allow_nan=False)


def _checked(content: bytes, refusal: str) -> MemoryDocument:
    try:
        return _renamed(TypeAdapter(MemoryDocument).validate_json(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{refusal}: {f'{where}: ' if where else ''}{message}") from error
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from error


def _renamed(document: MemoryDocument) -> MemoryDocument:
    """The same document with every id made from the content it names."""
    ids: dict[str, str] = {}
    rules = []
    for kept in document.rules:
        said = kept.rule
        if said.predicate:
            check_text("a predicate's metric", said.predicate.metric)
        rule = Rule.create(said.text, said.tags, said.provenance, said.predicate, said.state)
        ids[said.rule_id] = rule.rule_id
        rules.append(replace(kept, rule=replace(rule, uses=said.uses, successes=said.successes)))
    cases = [
        replace(
            case,
            rules=tuple(ids[rule_id] for rule_id in case.rules),
            recounts={ids[rule_id]: success for rule_id, success in case.recounts.items()},
        )
        for case in _folded(document.cases)
    ]
    prototypes = [replace(kept, prototype=_named(kept.prototype)) for kept in document.prototypes]
    return replace(document, rules=tuple(rules), cases=tuple(cases), prototypes=tuple(prototypes))


def _folded(cases: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The cases, without those that an older file has in the place of recounts, under the id "CASE/weigh/..."."""
    found = {case.case_id: case for case in cases}
    for case in cases:
        base, again, _ = case.case_id.partition("/weigh/")
        if again and base in found and case.judged is None:
            del found[case.case_id]
            recounts = {rule_id: case.success for rule_id in case.rules if rule_id not in found[base].rules}
            found[base] = replace(found[base], recounts={**recounts, **found[base].recounts})
    return list(found.values())


def _named(said: Prototype) -> Prototype:
    for metric in (*said.evidence, *said.weights):
        check_text("a prototype's metric", metric)
    return Prototype.create(said.case_id, said.rationale, said.score, said.tags, said.evidence, said.weights)
