"""Append-only files of JSON lines, and the manifest of finished items from which a killed run resumes.

A killed process leaves at most its last line incomplete. The next one that opens the file removes that line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from common.storage.files import PathLike

__all__ = ["Manifest", "end_of_whole_lines", "open_for_append", "refuse_other_file"]

BLOCK_BYTES = 65_536  # read at once from the end of a file

Record = dict[str, Any]


def open_for_append(path: PathLike) -> TextIO:
    """Opens a file of lines at its end, after removing an incomplete last line; creates the file and its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        os.truncate(path, end_of_whole_lines(path))
    return path.open("a", encoding="utf-8")


def end_of_whole_lines(path: PathLike) -> int:
    """The number of bytes up to and including the last line break. An incomplete line may end inside a character."""
    with Path(path).open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            file.seek(start)
            if (at := file.read(end - start).rfind(b"\n")) >= 0:
                return start + at + 1
            end = start
    return 0


def refuse_other_file(path: PathLike, start: bytes) -> None:
    """Raises ValueError if there is a file that does not begin as its lines do: it is not ours to continue or cut."""
    if not Path(path).is_file():
        return
    with Path(path).open("rb") as file:
        found = file.read(len(start))
    if not start.startswith(found):
        raise ValueError(
            f"{path} holds something else, and is not overwritten; move it or choose another folder"
        )


class Manifest:
    """Records of finished items by name, one JSON line per item; of two records with one name the later one counts.

    A record has a `name`, and the `fingerprint` of the inputs that the item was made from. Write it after the
    item's own files are complete. Memory holds only the position of each line, a few bytes per item.

    Raises ValueError, and leaves the file unchanged, if a complete line is not such a record: the file is not a
    manifest.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = Path(path)
        self._path.touch()
        self._file = self._path.open("r+b")
        self._positions: dict[str, tuple[str, int]] = {}
        try:
            if b"\n" not in self._file.read(BLOCK_BYTES):  # all of it would be cut as an incomplete line
                refuse_other_file(self._path, b'{"name": ')
            self._file.seek(0)
            self._index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, name: str, fingerprint: str) -> Record | None:
        """The record of this name, if it has this fingerprint."""
        found, _ = self._positions.get(name, ("", 0))
        return self.last(name) if found == fingerprint else None

    def last(self, name: str) -> Record | None:
        """The last record of this name, whatever it was made from."""
        if name not in self._positions:
            return None
        self._file.seek(self._positions[name][1])
        return json.loads(self._file.readline())

    def add(self, record: Record) -> None:
        position = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._positions[record["name"]] = (record["fingerprint"], position)

    def _index(self) -> None:
        position = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            name, fingerprint = self._name_and_fingerprint(line, number)
            self._positions[name] = (fingerprint, position)
            position += len(line)
        self._file.truncate(position)

    def _name_and_fingerprint(self, line: bytes, number: int) -> tuple[str, str]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        match record:
            case {"name": str(name), "fingerprint": str(fingerprint)}:
                return name, fingerprint
        raise ValueError(
            f"line {number} of {self._path} is not the record of a finished item; remove the file to compute its items "
            "again"
        )
