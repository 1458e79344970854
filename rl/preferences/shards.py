"""A preference set as files: shards that appear whole, and a journal of what an unfinished shard has cost so far.

    OUT/manifest.json             the arguments; a second run must bring the same
    OUT/shard-00000.parquet       `shard_rows` images with their groups, in the order given
    OUT/unfinished/00001-00007    one group of a shard that is not whole yet, as an Arrow stream

A group is kept as soon as it is judged, in whatever order groups arrive; the group that completes a shard turns its
journal into the shard. All three are renamed into place, so that a kill at any moment loses the groups in flight and
no other, and nothing is ever there twice: where the shard is, the journal no longer counts. One process writes a set;
how many judge for it is not known here.

What is kept is final, so two things are not kept. A group whose critic found nobody to answer (`agent.types.BackendUnavailable`)
leaves its place empty, and whoever takes the set up asks again. And a group without a single score, which is a verdict
on the group where the critic works at all, waits in memory until another group has one: a wrong model's name is no
verdict on anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr.types import Sample
from rl.preferences.tensors import REWARDS

__all__ = [
    "SHARD_PATTERN",
    "GroupShards",
    "Place",
    "decode_row",
    "encode_row",
    "image_sha256",
    "unavailable_reason",
    "unavailable_row",
]  # fmt: skip

MANIFEST = "manifest.json"
SHARD_PATTERN = "shard-*.parquet"
JOURNAL_PATTERN = "[0-9]*-[0-9]*"
UNFINISHED = "unfinished"
UNAVAILABLE = b"unheard: "  # in place of a row; an Arrow stream begins otherwise
ORIGIN = ["sample_id", "image_sha256"]  # the columns by which a row's image is known


@dataclass(frozen=True)
class Place:
    """Where a group belongs: row `row` of shard `shard`, made from the `row`-th sample of its block."""

    shard: int
    row: int

    @property
    def journal_name(self) -> str:
        return f"{self.shard:05d}-{self.row:05d}"


class GroupShards:
    """The files of one preference set, for its one writer.

    Raises ValueError if `out` was begun with other settings; where no group is kept yet, nothing was begun.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self._critic = settings.get("scorer", "the critic")
        self._unfinished = out / UNFINISHED
        self._missing: dict[int, set[int]] = {}  # rows of the shards that are begun
        self._sizes: dict[int, int] = {}
        self._held: list[tuple[Place, bytes]] = []  # groups without a score, while no group has one
        self._unheard = ""  # why the last group that nobody answered for was not judged
        self._begun = any(out.glob(SHARD_PATTERN)) or any(self._unfinished.glob(JOURNAL_PATTERN))
        out.mkdir(parents=True, exist_ok=True)
        _claim(out, settings, anew=not self._begun)
        self._unfinished.mkdir(exist_ok=True)

    @property
    def begun(self) -> bool:
        """Whether a group is kept, and so whether any has a score."""
        return self._begun

    def missing(
        self, blocks: Iterable[Sequence[Sample]], advance: Callable[[int], None]
    ) -> Iterator[tuple[Place, Sequence[Sample]]]:
        """The places to fill, shard by shard, each with its block; `advance` is told of the rows that are there.

        A block is looked into only where an earlier run has left something of its shard. Raises ValueError where that
        was made from other images, or where there are shards of more images than are given.
        """
        count = -1
        for count, block in enumerate(blocks):
            yield from ((place, block) for place in self._scan(count, block, advance))
        given = {self._shard(index) for index in range(count + 1)}
        if left_over := sorted(set(self.out.glob(SHARD_PATTERN)) - given):
            raise ValueError(
                f"{self.out} holds shards of more images than were given, from {left_over[0].name} on"
            )

    def keep(self, place: Place, row: bytes) -> None:
        """A judged group, as `encode_row` gives it; the last one of a shard completes it. What `unavailable_row` gives is
        not kept, nor for now is a group without a score while no group has one."""
        if (why := unavailable_reason(row)) is not None:
            self._unheard = why
            return
        self._held.append((place, row))
        if self._begun or _has_score(row):
            self._begun = True
            while self._held:
                self._write(*self._held.pop(0))

    def close(self, given: int | None = None) -> None:
        """After the last group: nothing is unfinished any more. `given` is how many there were to judge, where that is
        known.

        Raises ValueError where groups are missing, saying how many are kept and what to do about the others.
        """
        if any(self._missing.values()):
            raise ValueError(self._what_is_missing(given))
        shutil.rmtree(self._unfinished)

    def _write(self, place: Place, row: bytes) -> None:
        _write_atomically(self._journal(place), lambda path: path.write_bytes(row))
        self._missing[place.shard].discard(place.row)
        self._commit_if_whole(place.shard)

    def _what_is_missing(self, given: int | None) -> str:
        if not self._unheard:
            return (
                f"{self._critic} gave none of {len(self._held)} groups a score, so none is kept in {self.out}; see why "
                "on one of them, then give the same command again"
            )
        kept = sum(pq.read_metadata(path).num_rows for path in self.out.glob(SHARD_PATTERN))
        kept += len(list(self._unfinished.glob(JOURNAL_PATTERN)))
        of = "" if given is None else f" of {given}"
        return (
            f"{kept}{of} groups are judged and kept in {self.out}, and then nobody answered ({self._unheard}); the "
            "same command asks for the rest"
        )

    def _scan(self, shard: int, block: Sequence[Sample], advance: Callable[[int], None]) -> list[Place]:
        places = [Place(shard, row) for row in range(len(block))]
        if self._shard(shard).exists():
            _check(self._shard(shard), pq.read_table(self._shard(shard), columns=ORIGIN), block)
            self._forget(shard)
            advance(len(block))
            return []
        done = [place for place in places if self._journal(place).exists()]
        for place in done:
            _check(self._journal(place), _read_row(self._journal(place)).select(ORIGIN), [block[place.row]])
        if done:
            advance(len(done))
        self._sizes[shard] = len(block)
        self._missing[shard] = {place.row for place in places} - {place.row for place in done}
        self._commit_if_whole(shard)
        return [place for place in places if place not in done]

    def _commit_if_whole(self, shard: int) -> None:
        if self._missing[shard]:
            return
        places = [Place(shard, row) for row in range(self._sizes[shard])]
        table = pa.concat_tables([_read_row(self._journal(place)) for place in places]).combine_chunks()
        _write_atomically(self._shard(shard), lambda path: _write_shard(table, path))
        self._forget(shard)
        del self._missing[shard], self._sizes[shard]

    def _forget(self, shard: int) -> None:
        for path in self._unfinished.glob(f"{shard:05d}-*"):
            path.unlink()

    def _shard(self, index: int) -> Path:
        return self.out / f"shard-{index:05d}.parquet"

    def _journal(self, place: Place) -> Path:
        return self._unfinished / place.journal_name


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One group as a table of one row, in Arrow's stream format: arrays become float32 lists of fixed length, scores
    nullable float64."""
    names, columns = list(row), [_column(name, value) for name, value in row.items()]
    table = pa.table(columns, names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unavailable_row(reason: str) -> bytes:
    """What stands in the place of a row where nobody answered the critic."""
    return UNAVAILABLE + reason.encode()


def unavailable_reason(row: bytes) -> str | None:
    """The reason in `unavailable_row`; None for a judged group."""
    return row.removeprefix(UNAVAILABLE).decode() if row.startswith(UNAVAILABLE) else None


def decode_row(row: bytes) -> dict[str, Any]:
    """The inverse of `encode_row`, arrays as lists."""
    return pa.ipc.open_stream(row).read_all().to_pylist()[0]


def image_sha256(sample: Sample) -> str:
    """Content hash of the pixels and the image's shape; file names and compression do not matter."""
    image = np.ascontiguousarray(sample.image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _column(name: str, value: Any) -> pa.Array:
    if isinstance(value, np.ndarray):
        return pa.array([value], pa.list_(pa.float32(), len(value)))
    if name in ("scores", "camera") or name.startswith(REWARDS):
        return pa.array([value], pa.list_(pa.float64(), len(value)))
    return pa.array([value])


def _write_shard(table: pa.Table, path: Path) -> None:
    """Words by dictionary, numbers not: no two are equal, and a dictionary of them costs half as much again."""
    words = [field.name for field in table.schema if pa.types.is_string(field.type)]
    # its stub knows bool alone, its documentation a list of columns
    pq.write_table(table, path, compression="zstd", use_dictionary=words)  # pyright: ignore[reportArgumentType]


def _has_score(row: bytes) -> bool:
    scores = pa.ipc.open_stream(row).read_all()["scores"][0].as_py()
    return any(score is not None for score in scores)


def _read_row(path: Path) -> pa.Table:
    return pa.ipc.open_stream(path.read_bytes()).read_all()


def _check(path: Path, found: pa.Table, block: Sequence[Sample]) -> None:
    if found.to_pylist() != [{"sample_id": item.id, "image_sha256": image_sha256(item)} for item in block]:
        raise ValueError(f"{path} was made from other images, or from these in another order")


def _claim(out: Path, settings: Mapping[str, Any], anew: bool) -> None:
    """Writes the manifest, or finds the same one there; `anew` whatever is there."""
    manifest = out / MANIFEST
    if anew or not manifest.exists():
        _write_atomically(manifest, lambda path: path.write_text(json.dumps(dict(settings), indent=2) + "\n"))
    begun = json.loads(manifest.read_text())
    if changed := [name for name in settings if begun.get(name) != settings[name]]:
        told = ", ".join(f"{name}={begun.get(name)!r}, now {settings[name]!r}" for name in changed)
        raise ValueError(f"{out} was begun with {told}; take the same arguments up again or another folder")


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)
