"""Data in files that are mapped into memory, for arrays that may be larger than the memory.

The files have no name: the operating system deletes them with the last reference to their data, also after a kill.
Their pages belong to the cache of the file system, which gives them up when memory is needed.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from typing import IO

import numpy as np

from common.storage.files import PathLike

__all__ = ["check_room", "mapped_array", "reserved_file"]


def check_room(folder: PathLike, size: int) -> None:
    """Raises OSError, with the folder and both sizes, if its disk has no room for `size` bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(f"{folder} needs room for {size / 1e9:.3g} GB, and its disk has {free / 1e9:.3g} GB")


def reserved_file(folder: PathLike, size: int) -> IO[bytes]:
    """A file of `size` bytes without a name in `folder`, open at its start, whose place on the disk is reserved.

    Without the reservation, a write to a mapped file would end the process when the disk is full. Raises OSError as
    `check_room`.
    """
    check_room(folder, size)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the caller closes it)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:  # macOS
        file.truncate(size)
    return file


def mapped_array(shape: tuple[int, ...], dtype: np.dtype, folder: PathLike | None) -> np.ndarray:
    """A writable array of zeros in a file without a name in `folder`, or in memory if `folder` is None.

    Raises OSError as `check_room`.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if folder is None or not size:
        return np.zeros(shape, dtype)
    with reserved_file(folder, size) as file:  # the mapping keeps the file
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
