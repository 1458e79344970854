"""A memory as one JSON file: to keep, to read, to send, to merge into another.

    {"format": "meshcritic-memory", "version": 1, "text_embedder": ..., "image_embedder": ...,
     "rules": [{"rule": {...}, "history": [...]}], "cases": [{"case_id", "success", "rules", "judged"}],
     "steps": [...], "prototypes": [{"prototype": {...}, "embedding": "base64 of little-endian float32"}]}

Rules travel without their embeddings: whoever imports them embeds the sentences with a model of their own.
Photographs do not travel at all, so prototypes bring their embeddings and fit only a memory that looks at
photographs through the same model. Ids are taken anew from the content, so that a file may be written by hand
and cannot claim an id that is another rule's.

A file is a stranger's until its reader says otherwise: it is parsed as JSON and checked field by field, and every
sentence passes `memory.limits`.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import TypeAdapter, ValidationError

from memory.ledger import RuleLedger
from memory.prototypes import Prototype, prototype_from_row
from memory.rule import Rule, StateChange
from memory.store import MemoryStore

__all__ = [
    "KeptCase",
    "KeptPrototype",
    "KeptRule",
    "MemoryDocument",
    "read_document",
    "snapshot",
    "write_document",
]

VERSION = 1


@dataclass(frozen=True)
class KeptRule:
    rule: Rule
    history: tuple[StateChange, ...] = ()


@dataclass(frozen=True)
class KeptCase:
    """A recorded case; `judged` is what exploration keeps of it to fit weights on (`agent.learning`)."""

    case_id: str
    success: bool
    rules: tuple[str, ...]
    judged: dict[str, Any] | None = None


@dataclass(frozen=True)
class KeptPrototype:
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
    rules: tuple[KeptRule, ...]
    cases: tuple[KeptCase, ...] = ()
    steps: tuple[str, ...] = ()
    prototypes: tuple[KeptPrototype, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version} is not one that this program reads; it reads {VERSION}")
        known = {kept.rule.rule_id for kept in self.rules}
        if strange := sorted({rule_id for case in self.cases for rule_id in case.rules} - known):
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
    judged = ledger.explored([case_id for case_id, _, _ in cases])
    return MemoryDocument(
        format="meshcritic-memory",
        version=VERSION,
        text_embedder=store.meta("text_embedder"),
        image_embedder=store.meta("image_embedder"),
        rules=tuple(KeptRule(rule, tuple(histories[rule.rule_id])) for rule in ledger.all()),
        cases=tuple(
            KeptCase(case_id, success, tuple(used), judged.get(case_id)) for case_id, success, used in cases
        ),
        steps=tuple(ledger.steps()),
        prototypes=tuple(
            KeptPrototype(prototype_from_row(row), base64.b64encode(row["embedding"]).decode())
            for row in store.read("SELECT * FROM prototypes ORDER BY number")
        ),
    )


def write_document(document: MemoryDocument, path: Path) -> None:
    """In one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(asdict(document), indent=1, allow_nan=False), encoding="utf-8")
    partial.replace(path)


def read_document(path: Path) -> MemoryDocument:
    """Raises FileNotFoundError, and ValueError naming what is wrong in a file that is no memory."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        document = TypeAdapter(MemoryDocument).validate_json(path.read_bytes())
        return _renamed(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"{path} is not an exported memory: {f'{where}: ' if where else ''}{message}"
        ) from error


def _renamed(document: MemoryDocument) -> MemoryDocument:
    """The same document with every id made from the content it names."""
    ids: dict[str, str] = {}
    rules = []
    for kept in document.rules:
        said = kept.rule
        rule = Rule.create(said.text, said.tags, said.provenance, said.predicate, said.state)
        ids[said.rule_id] = rule.rule_id
        rules.append(replace(kept, rule=replace(rule, uses=said.uses, successes=said.successes)))
    cases = [replace(case, rules=tuple(ids[rule_id] for rule_id in case.rules)) for case in document.cases]
    prototypes = [replace(kept, prototype=_named(kept.prototype)) for kept in document.prototypes]
    return replace(document, rules=tuple(rules), cases=tuple(cases), prototypes=tuple(prototypes))


def _named(said: Prototype) -> Prototype:
    return Prototype.create(said.case_id, said.rationale, said.score, said.tags, said.evidence, said.weights)
