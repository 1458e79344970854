"""A preference set on disk: complete shards, and a journal of the groups of incomplete shards.

    OUT/manifest.json             the arguments; a second run must have the same
    OUT/shard-00000.parquet       `shard_rows` images with their groups, in the order given
    OUT/unfinished/00001-00007    one group of an incomplete shard, as an Arrow stream

A group is saved as soon as it is scored, in any order; the group that completes a shard turns the journal of the shard
into a Parquet file. All files are renamed into place, so a kill at any moment loses only the groups being scored, and
no group is stored twice: once a shard exists, its journal is ignored. One process writes a set; any number of
processes may score for it. Each page of a shard and each group of the journal has a checksum: a flipped bit is named
when it is read, and never becomes another pose or score.

Saved groups are final, so two kinds are not saved. If the backend of the critic was unavailable
(`agent.vlm.wrappers.availability`), the row stays missing and the next run scores it. A group without any score is
held in memory until another group has a score: if no group ever gets one, the cause is a wrong setting, such as the
name of the model, and not the group.
"""

# The functions of pyarrow.compute are generated when it is imported: pyright does not see them.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.failures import ScoresMissing
from common.reading.untrusted_files import damage_named
from common.reading.validate import require
from common.storage.files import PathLike, atomic_path, delete_partial_files, write_bytes, write_text
from hmr.types import Sample
from rl.preferences.tensors import REWARDS
from rl.types import PARAM_COLUMNS

__all__ = [
    "SHARD_PATTERN",
    "UNFINISHED",
    "GroupShards",
    "RowPosition",
    "decode_row",
    "encode_row",
    "image_sha256",
    "read_shard",
    "rows_of_shard",
    "unavailable_reason",
    "unavailable_row",
    "write_shard",
]  # fmt: skip

MANIFEST = "manifest.json"
SHARD_PATTERN = "shard-*.parquet"
JOURNAL_PATTERN = "[0-9]*-[0-9]*"
UNFINISHED = "unfinished"
UNAVAILABLE = b"unavailable: "  # marks a message in place of a row; an Arrow stream starts differently
CHECKSUM = "crc32:"  # before a row in the journal
DAMAGED = "delete it, and the command that scored its groups scores them again"
CAMERA_NUMBERS = 5  # in a row: focal length, principal point, size
GEOMETRY_NUMBERS = 8  # in a row: `rl.types.PreferenceGroup.geometry`
TEXTS = ("sample_id", "image_sha256", "scorer", "policy_digest")
IMAGE_COLUMNS = ["sample_id", "image_sha256"]  # the columns that identify the image of a row


@dataclass(frozen=True)
class RowPosition:
    """Row `row` of shard `shard`, for the `row`-th sample of the block of that shard."""

    shard: int
    row: int

    @property
    def journal_name(self) -> str:
        return f"{self.shard:05d}-{self.row:05d}"


class GroupShards:
    """The files of one preference set; only one process may write them.

    Raises ValueError if `out` holds groups made with other settings.
    """

    def __init__(self, out: PathLike, settings: Mapping[str, Any]) -> None:
        self.out = out = Path(out)
        self._critic = settings.get("scorer", "the critic")
        self._unfinished = out / UNFINISHED
        self._missing: dict[int, set[int]] = {}  # row numbers, by incomplete shard
        self._sizes: dict[int, int] = {}
        self._unscored: list[tuple[RowPosition, bytes]] = []  # while no group has a score
        self._unavailable = ""  # reason for the last group without an answer
        self._has_rows = any(out.glob(SHARD_PATTERN)) or any(self._unfinished.glob(JOURNAL_PATTERN))
        out.mkdir(parents=True, exist_ok=True)
        delete_partial_files(out)
        _check_manifest(out, settings, replace=not self._has_rows)
        self._unfinished.mkdir(exist_ok=True)

    @property
    def has_rows(self) -> bool:
        """Whether any group is saved, which implies that one has a score."""
        return self._has_rows

    def missing(
        self, blocks: Iterable[Sequence[Sample]], advance: Callable[[int], None]
    ) -> Iterator[tuple[RowPosition, Sequence[Sample]]]:
        """Positions still to fill, shard by shard, each with its block; `advance` receives the number of saved rows.

        The images of a block are read only if an earlier run saved groups of its shard. Raises ValueError if those were
        made from other images, or if there are shards of more images than are given.
        """
        count = -1
        for count, block in enumerate(blocks):
            yield from ((position, block) for position in self._scan(count, block, advance))
        given = {self._shard(index) for index in range(count + 1)}
        if left_over := sorted(set(self.out.glob(SHARD_PATTERN)) - given):
            raise ValueError(
                f"{self.out} holds shards of more images than were given, from {left_over[0].name} on"
            )

    def add(self, position: RowPosition, row: bytes) -> None:
        """Save a scored group, a result of `encode_row`; the last one of a shard completes the shard. A result of
        `unavailable_row` is not saved. A group without a score is saved once any group has one."""
        if (reason := unavailable_reason(row)) is not None:
            self._unavailable = reason
            return
        self._unscored.append((position, row))
        if self._has_rows or _has_score(row):
            self._has_rows = True
            while self._unscored:
                self._write(*self._unscored.pop(0))

    def close(self, given: int | None = None) -> None:
        """Call after the last group; deletes the journal. `given` is the number of images, if known.

        Raises ScoresMissing if groups are missing, with the number of saved ones and how to continue.
        """
        if any(self._missing.values()):
            raise ScoresMissing(self._missing_message(given))
        shutil.rmtree(self._unfinished)

    def _write(self, position: RowPosition, row: bytes) -> None:
        write_bytes(self._journal(position), f"{CHECKSUM}{zlib.crc32(row):08x}\n".encode() + row)
        self._missing[position.shard].discard(position.row)
        self._write_shard_if_complete(position.shard)

    def _missing_message(self, given: int | None) -> str:
        if not self._unavailable:
            return (
                f"{self._critic} gave none of {len(self._unscored)} groups a score, so none is saved in {self.out}; "
                "find the cause on one of them, then run the same command again"
            )
        saved = sum(pq.read_metadata(path).num_rows for path in self.out.glob(SHARD_PATTERN))
        saved += len(list(self._unfinished.glob(JOURNAL_PATTERN)))
        of = "" if given is None else f" of {given}"
        return (
            f"{saved}{of} groups are scored and saved in {self.out}, then the critic was unavailable "
            f"({self._unavailable}); run the same command again for the rest"
        )

    def _scan(self, shard: int, block: Sequence[Sample], advance: Callable[[int], None]) -> list[RowPosition]:
        positions = [RowPosition(shard, row) for row in range(len(block))]
        if self._shard(shard).exists():
            _check_images(self._shard(shard), read_shard(self._shard(shard)).select(IMAGE_COLUMNS), block)
            self._delete_journal(shard)
            advance(len(block))
            return []
        done = [position for position in positions if self._journal(position).exists()]
        for position in done:
            _check_images(
                self._journal(position),
                _read_row(self._journal(position)).select(IMAGE_COLUMNS),
                [block[position.row]],
            )
        if done:
            advance(len(done))
        self._sizes[shard] = len(block)
        self._missing[shard] = {position.row for position in positions} - {position.row for position in done}
        self._write_shard_if_complete(shard)
        return [position for position in positions if position not in done]

    def _write_shard_if_complete(self, shard: int) -> None:
        if self._missing[shard]:
            return
        positions = [RowPosition(shard, row) for row in range(self._sizes[shard])]
        table = pa.concat_tables(
            [_read_row(self._journal(position)) for position in positions]
        ).combine_chunks()
        with atomic_path(self._shard(shard)) as partial:
            write_shard(table, partial)
        self._delete_journal(shard)
        del self._missing[shard], self._sizes[shard]

    def _delete_journal(self, shard: int) -> None:
        for path in self._unfinished.glob(f"{shard:05d}-*"):
            path.unlink()

    def _shard(self, index: int) -> Path:
        return self.out / f"shard-{index:05d}.parquet"

    def _journal(self, position: RowPosition) -> Path:
        return self._unfinished / position.journal_name


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One group as a table of one row in Arrow's stream format. Arrays become float32 lists of fixed length, scores
    nullable float64."""
    names, columns = list(row), [_column(name, value) for name, value in row.items()]
    table = pa.table(columns, names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unavailable_row(reason: str) -> bytes:
    """A message in place of a row, for a group that was not scored because the backend was unavailable."""
    return UNAVAILABLE + reason.encode()


def unavailable_reason(row: bytes) -> str | None:
    """The reason in a result of `unavailable_row`; None for a scored group."""
    return row.removeprefix(UNAVAILABLE).decode() if row.startswith(UNAVAILABLE) else None


def decode_row(row: bytes) -> dict[str, Any]:
    """The inverse of `encode_row`, arrays as lists."""
    return pa.ipc.open_stream(row).read_all().to_pylist()[0]


def image_sha256(sample: Sample) -> str:
    """Content hash of the pixels and the shape of the image; file name and compression do not matter."""
    image = np.ascontiguousarray(sample.image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _column(name: str, value: Any) -> pa.Array:
    if isinstance(value, np.ndarray):
        return pa.array([value], pa.list_(pa.float32(), len(value)))
    if name in ("scores", "camera") or name.startswith(REWARDS):
        return pa.array([value], pa.list_(pa.float64(), len(value)))
    return pa.array([value])


def write_shard(table: pa.Table, path: Path) -> None:
    """Dictionary-encodes strings only: numbers differ, so a dictionary would make their columns 1.5 times larger."""
    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    # the stub of pyarrow allows only bool, its documentation also a list of columns
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=strings,  # pyright: ignore[reportArgumentType]
        write_page_checksum=True,
    )


def _has_score(row: bytes) -> bool:
    scores = pa.ipc.open_stream(row).read_all()["scores"][0].as_py()
    return any(score is not None for score in scores)


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All groups of a shard, with the columns of these names or all. Raises ValueError, with what to do, if a page
    differs from its checksum, or if the columns are not those of groups."""
    wanted = None if columns is None else list(columns)
    with damage_named(path, DAMAGED), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return _checked(
            file.read(wanted, use_threads=False), wanted
        )  # threads double the time of a file this small


def rows_of_shard(path: Path) -> int:
    """The number of groups of a shard. Raises ValueError as `read_shard`."""
    with damage_named(path, DAMAGED):
        metadata = pq.read_metadata(path)
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise ValueError("its numbers of rows contradict each other")
        return metadata.num_rows


def _read_row(path: Path) -> pa.Table:
    with damage_named(path, DAMAGED):
        head, _, content = path.read_bytes().partition(b"\n")
        if head != f"{CHECKSUM}{zlib.crc32(content):08x}".encode():
            raise ValueError("its checksum differs")
        return _checked(pa.ipc.open_stream(content).read_all())


def _checked(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, if its columns are those of groups; if only some were read, these. Raises ValueError for a missing
    column or value, another type, and a length that does not fit the number of scores."""
    of_bodies = "x0" not in table.column_names  # else of a policy behind an adapter
    lists = ("condition", "scores", *(("geometry", "camera", *PARAM_COLUMNS) if of_bodies else ("x0",)))
    wanted = (*TEXTS, *lists, "uses_truth") if columns is None else columns
    require(table.column_names, wanted, "a row")
    kinds = {**dict.fromkeys(TEXTS, pa.types.is_string), **dict.fromkeys(lists, _is_numbers)}
    for name, has_kind in {**kinds, "uses_truth": pa.types.is_boolean}.items():
        if name in wanted and (not has_kind(table.schema.field(name).type) or table[name].null_count):
            raise ValueError(f"{name} is of type {table.schema.field(name).type}, or lacks a value")
    if of_bodies and "scores" in wanted:
        groups = pc.list_value_length(table["scores"])
        lengths = {name: pc.multiply(groups, math.prod(shape)) for name, shape in PARAM_COLUMNS.items()}
        for name, length in (("camera", CAMERA_NUMBERS), ("geometry", GEOMETRY_NUMBERS)):
            lengths[name] = pc.add(pc.multiply(groups, 0), length)
        for name in (name for name in lengths if name in wanted):
            _check_lengths(table, name, lengths[name])
    return table


def _check_lengths(table: pa.Table, name: str, wanted: pa.ChunkedArray) -> None:
    if not pc.all(pc.equal(pc.list_value_length(table[name]), wanted), min_count=0).as_py():
        raise ValueError(f"{name} has another length than its group needs")


def _is_numbers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _check_images(path: Path, found: pa.Table, block: Sequence[Sample]) -> None:
    if found.to_pylist() != [{"sample_id": item.id, "image_sha256": image_sha256(item)} for item in block]:
        raise ValueError(f"{path} was made from other images, or from these in another order")


def _check_manifest(out: Path, settings: Mapping[str, Any], replace: bool) -> None:
    """Writes the manifest if there is none or with `replace`, else raises ValueError if it differs."""
    manifest = out / MANIFEST
    if replace or not manifest.exists():
        write_text(manifest, json.dumps(dict(settings), indent=2) + "\n")
    recorded = json.loads(manifest.read_text())
    if changed := [name for name in settings if recorded.get(name) != settings[name]]:
        differences = ", ".join(f"{name}={recorded.get(name)!r}, now {settings[name]!r}" for name in changed)
        raise ValueError(f"{out} was begun with {differences}; use the same arguments or another folder")
