"""What a long run has finished, one JSON line an item, so that a killed run goes on where it stopped.

A line is written after its item's files are whole. What a kill tore off is cut away when the file is next opened;
whole lines that no run writes are refused, for then the file is somebody else's. Only the places of the lines are
kept in memory, so a video of any length costs a few bytes a frame.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Manifest"]

Record = dict[str, Any]


class Manifest:
    """Records by name; a later one of the same name counts. `stamp` tells what each was made from.

    Raises ValueError, and leaves the file as it is, where a line of it is no such record.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path, self._file = path, path.open("r+b")
        self._places: dict[str, tuple[str, int]] = {}
        try:
            self._index()
        except ValueError:
            self._file.close()
            raise

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
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            name, stamp = self._name_and_stamp(line, number)
            self._places[name] = (stamp, place)
            place += len(line)
        self._file.truncate(place)

    def _name_and_stamp(self, line: bytes, number: int) -> tuple[str, str]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        match record:
            case {"name": str(name), "stamp": str(stamp)}:
                return name, stamp
        raise ValueError(
            f"line {number} of {self._path} is no record of a finished item; remove the file, and what it lists is "
            "made again"
        )
