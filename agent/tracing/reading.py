"""Reads the JSONL trace of a run, critique by critique.

A file may have hundreds of megabytes, so it is read line by line, twice: once for the ids of its critiques, once for
the records of those that are wanted. Lines that are not records, such as an incomplete last one, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CritiqueRecords", "ReadTrace", "read_critiques", "read_trace"]

Record = dict[str, Any]
FIELDS = {"trace": str, "case": str, "node": str, "ms": (int, float), "outputs": dict}  # of each record


@dataclass(frozen=True)
class CritiqueRecords:
    """The records of one critique, or of one exploration, in the order in which its nodes ran."""

    case: str
    trace: str
    records: tuple[Record, ...]


@dataclass(frozen=True)
class ReadTrace:
    """The last critiques of a trace, in the order in which they ended, and how many the file has."""

    critiques: tuple[CritiqueRecords, ...]
    found: int


def read_trace(run: Path, case: str | None = None, limit: int = 1) -> ReadTrace:
    """The last `limit` critiques of a run, or those of one case.

    run: a folder with a `trace.jsonl`, or the file. Raises FileNotFoundError if there is no trace, and ValueError for
    another file or an unknown case.
    """
    path = run / "trace.jsonl" if run.is_dir() else run
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no trace here")
    found: dict[tuple[str, str], None] = {}  # (case, trace), in the order of their last records
    for record in _records(path):
        found.pop(key := (record["case"], record["trace"]), None)
        found[key] = None
    if not found:
        raise ValueError(
            f"{path} has no trace records (JSON objects with {', '.join(FIELDS)}); "
            "`meshcritic trace` takes the folder of a run or its trace.jsonl"
        )
    chosen = [key for key in found if case in (None, key[0])]
    if not chosen:
        some = ", ".join(sorted({name for name, _ in found})[:5])
        raise ValueError(f"{path} has no case {case!r}; it has {some}")
    wanted: dict[tuple[str, str], list[Record]] = {key: [] for key in chosen[-limit:]}
    for record in _records(path):
        if (key := (record["case"], record["trace"])) in wanted:
            wanted[key].append(record)
    critiques = (CritiqueRecords(*key, tuple(records)) for key, records in wanted.items())
    return ReadTrace(tuple(critiques), len(chosen))


def read_critiques(path: Path, traces: Collection[str]) -> dict[str, list[Record]]:
    """The records of the critiques with these trace ids, in the order in which their nodes ran; without an entry for
    an id that the file does not have. Raises FileNotFoundError if there is no file."""
    found: dict[str, list[Record]] = {}
    for record in _records(path):
        if record["trace"] in traces:
            found.setdefault(record["trace"], []).append(record)
    return found


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            if (record := _parsed(line)) is not None:
                yield record


def _parsed(line: bytes) -> Record | None:
    """None for a line that is not a record."""
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return record if all(isinstance(record.get(field), kind) for field, kind in FIELDS.items()) else None
