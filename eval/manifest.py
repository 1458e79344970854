"""What a long run has finished, one JSON line an item, so that a killed run goes on where it stopped.

A line is written after its item's files are whole. What a kill tore off is cut away when the file is next opened. Only
the places of the lines are kept in memory, so a video of any length costs a few bytes a frame.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Manifest"]

Record = dict[str, Any]


class Manifest:
    """Records by name; a later one of the same name counts. `stamp` tells what each was made from."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("r+b")
        self._places: dict[str, tuple[str, int]] = {}
        self._index()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, name: str, stamp: str) -> Record | None:
        """The finished record of this name, if it was made from the same things."""
        known, place = self._places.get(name, ("", 0))
        if known != stamp:
            return None
        self._file.seek(place)
        return json.loads(self._file.readline())

    def add(self, record: Record) -> None:
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._places[record["name"]] = (record["stamp"], place)

    def _index(self) -> None:
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            self._places[record["name"]] = (record["stamp"], place)
            place += len(line)
        self._file.truncate(place)
