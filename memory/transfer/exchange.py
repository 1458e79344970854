"""Exports a memory to a JSON file and reads such a file, for example to merge it into another memory.

    {"format": "meshcritic-memory", "version": 1, "text_embedder": ..., "image_embedder": ...,
     "rules": [{"rule": {...}, "history": [...]}], "cases": [{"case_id", "success", "rules", "judged",
     "recounts"}], "steps": [...], "prototypes": [{"prototype": {...}, "embedding": "base64 of little-endian float32"}]}

Rules are exported without embeddings: the importing memory embeds their sentences with its own model. Photographs are
not exported, so prototypes include their embeddings and fit only a memory with the same image embedder. Ids are
computed again from the content, so a file can be written by hand and cannot use the id of another rule.

A file is not trusted: it is parsed as JSON and checked field by field, including the judged cases
(`memory.transfer.case_schema`), and every sentence and name that can occur in a prompt passes `memory.text_limits`. The
folder of another memory is read with the same checks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float32
from pydantic import TypeAdapter, ValidationError

from common.storage.files import PathLike, write_text
from memory.folder import open_store
from memory.ledger import RuleLedger
from memory.prototype_memory import Prototype, prototype_from_row
from memory.rule import Rule, StateChange
from memory.store import MemoryStore
from memory.text_limits import check_text
from memory.transfer.case_schema import CheckedCase, JudgedCase

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
    """A recorded case. `judged` is the data that exploration uses to fit weights (`agent.exploration.learning`)."""

    case_id: str
    success: bool
    rules: tuple[str, ...]
    judged: CheckedCase | None = None
    recounts: dict[str, bool] = field(default_factory=dict)  # rule id -> success when judged again with it


@dataclass(frozen=True)
class PrototypeRecord:
    prototype: Prototype
    embedding: str  # base64

    @property
    def vector(self) -> Float32[np.ndarray, "dim"]:
        return np.frombuffer(base64.b64decode(self.embedding), "<f4").astype(np.float32)


@dataclass(frozen=True)
class MemoryDocument:
    """The content of a memory. The counts of its rules are informative; an import counts the cases."""

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
            raise ValueError(f"version {self.version} is not supported; the supported version is {VERSION}")
        known = {record.rule.rule_id for record in self.rules}
        used = {rule_id for case in self.cases for rule_id in (*case.rules, *case.recounts)}
        if unknown := sorted(used - known):
            raise ValueError(f"its cases used a rule that it does not contain: {unknown[0]!r}")
        if len({len(record.embedding) for record in self.prototypes}) > 1:
            raise ValueError("its prototypes have embeddings of different lengths")
        if self.prototypes and self.image_embedder is None:
            raise ValueError(
                "its prototypes need an image_embedder, the name of the model that embedded them"
            )


def snapshot(store: MemoryStore) -> MemoryDocument:
    """The current content of a store."""
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


def write_document(document: MemoryDocument, path: PathLike) -> None:
    """Writes the file in one step; its folder is created if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _as_json(document))


def read_document(path: PathLike) -> MemoryDocument:
    """Raises FileNotFoundError, and ValueError with the first fault of a file that is not an exported memory."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return _parse(Path(path).read_bytes(), f"{path} is not an exported memory")


def read_memory(folder: PathLike) -> MemoryDocument:
    """The content of the memory in a folder, which stays unchanged. Raises as `read_document` does."""
    with open_store(folder, frozen=True) as store:
        content = _as_json(snapshot(store))
    return _parse(content.encode(), f"{folder} is not a memory that can be merged")


def _as_json(document: MemoryDocument) -> str:
    return json.dumps(asdict(document), indent=1, allow_nan=False)


def _parse(content: bytes, refusal: str) -> MemoryDocument:
    try:
        return _with_content_ids(TypeAdapter(MemoryDocument).validate_json(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{refusal}: {f'{where}: ' if where else ''}{message}") from error
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from error


def _with_content_ids(document: MemoryDocument) -> MemoryDocument:
    """The same document with every id computed from the content."""
    ids: dict[str, str] = {}
    rules = []
    for record in document.rules:
        given = record.rule
        if given.predicate:
            check_text("a predicate's metric", given.predicate.metric)
        rule = Rule.create(given.text, given.tags, given.provenance, given.predicate, given.state)
        ids[given.rule_id] = rule.rule_id
        rules.append(replace(record, rule=replace(rule, uses=given.uses, successes=given.successes)))
    cases = [
        replace(
            case,
            rules=tuple(ids[rule_id] for rule_id in case.rules),
            recounts={ids[rule_id]: success for rule_id, success in case.recounts.items()},
        )
        for case in document.cases
    ]
    prototypes = [
        replace(record, prototype=_checked_prototype(record.prototype)) for record in document.prototypes
    ]
    return replace(document, rules=tuple(rules), cases=tuple(cases), prototypes=tuple(prototypes))


def _checked_prototype(given: Prototype) -> Prototype:
    for metric in (*given.evidence, *given.weights):
        check_text("a prototype's metric", metric)
    return Prototype.create(
        given.case_id, given.rationale, given.score, given.tags, given.evidence, given.weights
    )
