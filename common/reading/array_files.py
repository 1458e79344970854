"""Reads arrays from pickle and npz files of other projects without executing what the files name.

Official SMPL files are Python 2 pickles of numpy arrays, a scipy sparse matrix and `chumpy.ch.Ch` objects, and
`chumpy` cannot be imported with numpy >= 1.24. `common.reading.restricted_pickle` reads them.

An `.npz` of a body model is read array by array without pickles; the object arrays in official SMPL-X files are never
loaded. Data sets store required values in object arrays (mmhuman3d's `smpl` is a pickled dictionary), and
`restricted_npz` passes these to the restricted unpickler.

A file is untrusted: whatever is wrong with it is a ValueError that names it, and what it unfolds to is limited by
its size, before anything is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from zipfile import ZipExtFile, ZipFile, is_zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from common.reading.restricted_pickle import PLAIN_KINDS, Budget, unpickle_arrays
from common.reading.validate import require
from common.storage.files import PathLike

__all__ = [
    "open_npz", "read_arrays", "read_npy", "restricted_array", "restricted_load", "restricted_npz",
]  # fmt: skip


def read_arrays(path: PathLike, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an `.npz` or an official `.pkl`, dense.

    Raises FileNotFoundError if there is no file, and ValueError if it has another suffix, cannot be read safely, or
    lacks one of the names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of arrays at {path}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path, names)
    if suffix == ".pkl":
        content = restricted_load(path)
        require(content, names, str(path))
        return {name: _as_array(content[name], f"{path}: {name}") for name in names}
    raise ValueError(f"arrays are read from an .npz or a .pkl file, not from {path.name}")


def _as_array(value: Any, where: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} is not an array: {_reason(error)}") from error


def restricted_load(path: PathLike) -> dict[str, Any]:
    """A pickled dictionary of numbers, strings, lists, numpy arrays, sparse matrices and chumpy leaves. The last three
    are returned as dense numpy arrays.

    Reads pickles of Python 2 (official SMPL, 3DPW) and Python 3. Raises ValueError for a pickle that names any other
    class or function, is damaged, or does not contain a dictionary.
    """
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def restricted_array(path: PathLike) -> NDArray[Any]:
    """A pickled array, read in the same way. Raises ValueError if the pickle contains anything else."""
    content = _unpickle(path)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an array")
    return content


def restricted_npz(path: PathLike, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """The named members of an `.npz`, and those of `optional` that it has. No other member is opened.

    An object array of shape () is returned as its one object (a dictionary, in mmhuman3d's files), one of shape (n,)
    as a list. Raises FileNotFoundError if there is no file, and ValueError if it is not an npz, lacks one of the names,
    or pickles anything that `restricted_load` refuses.
    """
    with open_npz(path) as archive:
        require(archive.names, names, str(path))
        wanted = (*names, *(name for name in optional if name in archive.names))
        return {name: archive.read(name, objects=True) for name in wanted}


class NpzFile:
    """An open `.npz`. Names are without `.npy`."""

    def __init__(self, path: Path, archive: ZipFile) -> None:
        self.path, self._archive = path, archive
        self._budget = Budget(path.stat().st_size)
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def read(self, name: str, objects: bool = False) -> Any:
        """One array of numbers or strings; with `objects` also the objects of an object array.

        Raises ValueError, which names the file and the array, for anything else.
        """
        try:
            member = self._archive.getinfo(f"{name}.npy")
            self._budget.spend(member.file_size)
            with cast(ZipExtFile, self._archive.open(member)) as file:
                return _read_member(file, self._budget, objects)
        except Exception as error:
            raise ValueError(f"{self.path}: {name} is not made of plain arrays: {_reason(error)}") from error


@contextmanager
def open_npz(path: PathLike) -> Iterator[NpzFile]:
    """Raises FileNotFoundError if there is no file, and ValueError if it is not an npz."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no npz file at {path}")
    if not is_zipfile(path):
        raise ValueError(f"{path} is not an npz archive")
    try:
        archive = ZipFile(path)
    except Exception as error:
        raise ValueError(f"{path} is not an npz archive: {_reason(error)}") from error
    with archive:
        yield NpzFile(path, archive)


def read_npy(path: PathLike) -> NDArray[Any]:
    """The array of numbers or strings in a `.npy` file. Raises ValueError if it is not one."""
    return _decoded(
        path, lambda file, budget: _read_member(file, budget, objects=False), "an array file (.npy)"
    )


def _unpickle(path: PathLike) -> Any:
    return _decoded(path, unpickle_arrays, "a pickle of plain arrays")


def _decoded(path: PathLike, read: Callable[[BinaryIO, Budget], Any], noun: str) -> Any:
    """What `read` makes of the file; whatever it raises becomes a ValueError."""
    with Path(path).open("rb") as file:
        try:
            return read(file, Budget(os.fstat(file.fileno()).st_size))
        except Exception as error:
            raise ValueError(f"{path} is not {noun}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    with open_npz(path) as archive:
        require(archive.names, names, str(path))
        return {name: archive.read(name) for name in names}


def _read_member(file: BinaryIO | ZipExtFile, budget: Budget, objects: bool) -> Any:
    """One `.npy` file. numpy pickles objects directly after the header.

    Only as many bytes are allocated as the file has, whatever its header says. Header version 3, for structured arrays,
    is not read.
    """
    read_header = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}
    version, _ = npy.read_magic(file)
    if version not in read_header:
        raise ValueError(f"it has a header of version {version}.0; 1.0 and 2.0 are read")
    shape, column_major, dtype = read_header[version](file)
    if dtype.hasobject and objects:
        return unpickle_arrays(file, budget)
    if dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"it has the type {dtype}, not numbers or strings")
    flat = np.frombuffer(bytearray(file.read()), dtype)
    return flat.reshape(shape, order="F" if column_major else "C")
