"""Preference sets as Arrow tables, read in blocks of rows, so that memory does not depend on the number of images.

The shards of a set are compressed, so they are copied once, decompressed, into a file without a name beside them, and
the rows of the `Dataset` are mapped from there: 9 KB per image (G = 20, 406 channels).
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from jaxtyping import Float, Int

from common.storage.files import PathLike
from common.storage.mapped_files import reserved_file

__all__ = ["BLOCK_ROWS", "array_of", "as_dataset", "content_of", "mapped_dataset", "row_blocks"]

BLOCK_ROWS = 256  # a block of 2 MB fits the cache of a CPU: twice as fast as blocks of 1024
CONTENT_ROWS = 256  # part of the digests of sets, unlike BLOCK_ROWS


def as_dataset(table: pa.Table) -> Dataset:
    """Without a fingerprint by content, for which `Dataset` would copy all rows into one string."""
    return Dataset(table, fingerprint=generate_random_fingerprint())


def mapped_dataset(tables: Iterable[pa.Table], rows: int, folder: PathLike) -> Dataset:
    """The rows of all tables, which have one schema, in a file without a name in `folder`.

    rows: their total number, by which room on the disk is reserved. Raises OSError, with folder and size, if the disk
    is too small.
    """
    blocks = _joined(tables)
    first = next(blocks)
    if not len(first):
        raise ValueError("the set has no groups")
    with reserved_file(folder, first.nbytes * rows // len(first)) as file:
        with pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for block in blocks:
                writer.write_table(block)
        file.truncate()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # it keeps the file
    return as_dataset(pa.ipc.open_stream(pa.py_buffer(mapped)).read_all())


def _joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least BLOCK_ROWS, but for the last one."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= BLOCK_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def row_blocks(
    dataset: Dataset, columns: Sequence[str] | None = None, rows: int = BLOCK_ROWS
) -> Iterator[pa.Table]:
    """All rows in order, `rows` at a time; `columns` are the names of those to read, None for all."""
    if columns is not None:
        dataset = dataset.select_columns(list(columns))
    # the format decides the type
    yield from cast(Iterator[pa.Table], dataset.with_format("arrow").iter(rows))


def array_of(block: pa.Table, name: str) -> Float[np.ndarray, "rows length"]:
    """A column of lists of one length as float32. Raises ValueError if the lengths differ."""
    column = block[name].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = np.unique(_lengths(column)).tolist()
    if len(lengths) != 1:
        raise ValueError(f"all lists in column {name} must have one length, not {lengths}")
    return values.reshape(len(block), -1)


def content_of(dataset: Dataset) -> Iterator[bytes]:
    """The names of the columns and all values, for a digest. Rows in other shards or in another file are the same."""
    yield json.dumps(dataset.column_names).encode()
    for block in row_blocks(dataset, rows=CONTENT_ROWS):
        for column in block.columns:
            yield from _content(column.combine_chunks())


def _content(array: pa.Array) -> Iterator[bytes]:
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        yield _lengths(array).tobytes()
        array = array.flatten()
    if pa.types.is_floating(array.type):
        yield array.to_numpy(zero_copy_only=False).tobytes()  # None is NaN, which no score is
    else:
        yield json.dumps(array.to_pylist()).encode()


def _lengths(lists: pa.Array) -> Int[np.ndarray, " rows"]:
    if pa.types.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size, np.int32)
    return lists.value_lengths().to_numpy()
