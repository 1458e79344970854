"""Reads and writes files of rankings by people (docs/reference/rankings-file.md): JSON lines of two kinds.

    {"group": "a-0", "photo": "a.jpg", "hypotheses": "a-0.npz", "person": 0, "size": 8}
    {"judge": "1", "group": "a-0", "order": [[3], [0, 1], [2]]}

A group names a photograph and the bodies of one person in it, relative to the file's folder. An order has hypotheses of
a group from best to worst, equal ones in one list; it may leave hypotheses out, so that a pair is an order of two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.reading.validate import members
from common.storage.jsonl import open_for_append

__all__ = ["Order", "RankedGroup", "Rankings", "RankingsFile", "read_rankings"]

GROUP = {"group": str, "photo": str, "hypotheses": str, "person": int, "size": int}
ORDER = {"judge": str, "group": str, "order": list}


@dataclass(frozen=True)
class RankedGroup:
    """A photograph, and the bodies of one person in it."""

    name: str
    photo: Path
    hypotheses: Path
    person: int  # in the file of hypotheses
    size: int  # hypotheses


@dataclass(frozen=True)
class Order:
    """What one person said about hypotheses of a group: best first, equal ones together."""

    judge: str
    group: str
    order: tuple[tuple[int, ...], ...]

    @property
    def hypotheses(self) -> frozenset[int]:
        return frozenset(index for equal in self.order for index in equal)


@dataclass(frozen=True)
class Rankings:
    """The content of a file."""

    groups: Mapping[str, RankedGroup]
    orders: Sequence[Order]


def read_rankings(path: Path) -> Rankings:
    """Raises FileNotFoundError, and ValueError with the line for anything that does not fit. An incomplete last line,
    of a killed run, is left out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of rankings")
    groups: dict[str, RankedGroup] = {}
    orders: list[Order] = []
    *lines, last = path.read_bytes().split(b"\n")
    lines += [last] if _is_json(last) else []  # a file written by hand may end without a line break
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of {path}"
        record = _parsed(line, where)
        if "judge" in record:
            orders.append(_order(record, groups, where))
        else:
            group = _group(record, path.parent, where)
            if groups.setdefault(group.name, group) != group:
                raise ValueError(f"{where}: there is another group {group.name!r} before it")
    return Rankings(groups, orders)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{where} is a {type(record).__name__}, not an object with group, or with judge and order"
        )
    return record


def _group(record: dict[str, Any], folder: Path, where: str) -> RankedGroup:
    found = members(record, GROUP, where)
    if found["size"] < 2 or found["person"] < 0:
        raise ValueError(f"{where}: size must be at least 2 and person at least 0")
    photo, hypotheses = folder / found["photo"], folder / found["hypotheses"]
    return RankedGroup(found["group"], photo, hypotheses, found["person"], found["size"])


def _order(record: dict[str, Any], groups: Mapping[str, RankedGroup], where: str) -> Order:
    found = members(record, ORDER, where)
    group = groups.get(found["group"])
    if group is None:
        raise ValueError(f"{where}: no line before it describes the group {found['group']!r}")
    order = found["order"]
    if not all(isinstance(equal, list) and equal for equal in order):
        raise ValueError(f"{where}: order takes lists of hypotheses, best first, as [[3], [0, 1], [2]]")
    indices = [index for equal in order for index in equal]
    if len(indices) < 2 or not all(type(index) is int and 0 <= index < group.size for index in indices):
        raise ValueError(
            f"{where}: order takes at least two hypotheses from 0 to {group.size - 1}, not {indices}"
        )
    if len(set(indices)) < len(indices):
        raise ValueError(f"{where}: order has a hypothesis twice: {indices}")
    return Order(found["judge"], group.name, tuple(tuple(equal) for equal in order))


class RankingsFile:
    """Appends groups and orders to a file, one line each, which is on the disk when the method returns.

    Raises ValueError if the file has other content than rankings.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_for_append(path)
        try:
            known = read_rankings(path)
        except ValueError:
            self._file.close()
            raise
        self.groups, self.orders = dict(known.groups), list(known.orders)

    def __enter__(self) -> RankingsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_group(self, group: RankedGroup) -> None:
        """Nothing if the file has it. Raises ValueError if the file has another one of this name."""
        known = self.groups.get(group.name)
        if known is None:
            self.groups[group.name] = group
            places = {"photo": self._relative(group.photo), "hypotheses": self._relative(group.hypotheses)}
            self._write({"group": group.name, **places, "person": group.person, "size": group.size})
        elif not _same(known, group):
            raise ValueError(
                f"{self._path} has another group {group.name!r}: {known.size} bodies of person {known.person} in "
                f"{known.hypotheses}, on {known.photo}"
            )

    def add_order(self, order: Order) -> None:
        self._write(
            {"judge": order.judge, "group": order.group, "order": [list(equal) for equal in order.order]}
        )
        self.orders.append(order)

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path.resolve(), self._path.parent.resolve())

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _same(known: RankedGroup, group: RankedGroup) -> bool:
    files = (
        known.photo.resolve() == group.photo.resolve()
        and known.hypotheses.resolve() == group.hypotheses.resolve()
    )
    return files and (known.person, known.size) == (group.person, group.size)
