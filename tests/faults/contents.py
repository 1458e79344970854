"""What a run left in its folder, as far as it does not depend on the clock."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from memory.folder import open_store
from memory.transfer.exchange import snapshot

__all__ = ["content_of", "differences"]

# they hold times, or are caches with the order of their making
UNCOMPARED = re.compile(
    r"trace.*\.jsonl|training_args\.bin|events\.out\..*|.*\.faiss|memory\.sqlite-(wal|shm)|.*\.log|.*\.report"
)
TIMES = re.compile(r"(seconds|_s|preparation_time|runtime|_ms|_us|per_second|started|took)$|^commit$")
# the report of an exploration says what the last run did; what all of them did is in the memory
OF_LAST_RUN = ("cases", "skipped", "held_out_srcc_before", "mined", "admitted", "retired", "reweighed")
OUT_OF_PLACE = re.compile(r"\.partial$|\.parquet\.\d+$|^\.lock$")


def content_of(folder: Path) -> dict[str, Any]:
    """The content of every file, by name. Fails if a run has left temporary files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    near = [*folder.rglob("*"), *folder.parent.glob(f"{folder.name}.partial")]
    left = [str(path) for path in near if OUT_OF_PLACE.search(path.name)]
    assert not left, f"left behind: {left}"
    return {
        str(path.relative_to(folder)): _content(path, folder)
        for path in files
        if not UNCOMPARED.fullmatch(path.name)
    }


def _content(path: Path, folder: Path) -> Any:
    if path.name == "memory.sqlite":
        with open_store(path.parent, frozen=True) as store:
            return snapshot(store)
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(str(folder), "OUT")
        values = map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else [json.loads(text)]
        cut = OF_LAST_RUN if path.name == "exploration.json" else ()
        return [_without(value, cut) for value in values]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without(value: Any, names: tuple[str, ...] = ()) -> Any:
    """The value without times, and without these names at its top."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if not TIMES.search(name) and name not in names}
        return {name: _without(item) for name, item in kept.items()}
    return [_without(item) for item in value] if isinstance(value, list) else value


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Where two contents differ, and how."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted({**found, **wanted})
        return [
            line
            for name in names
            for line in differences(found.get(name), wanted.get(name), f"{where}/{name}")
        ]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{where}/{index}")]
    return [] if found == wanted else [f"{where}: {str(found)[:200]}, not {str(wanted)[:200]}"]
