"""Data in files that are mapped into memory, for arrays that may be larger than the memory.

The files have no name: the operating system deletes them with the last reference to their data, also after a kill.
Their pages belong to the cache of the file system, which gives them up when memory is needed.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from common.files import PathLike

__all__ = ["mapped_array", "reserved_file"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reserved_file(folder: PathLike, size: int) -> IO[bytes]:
    """An empty file without a name in `folder`, which is created, on a disk that has room for `size` bytes.

    Without the reservation, writing to a mapped file would end the process when the disk is full. Raises OSError that
    names the folder and the size.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the caller closes it)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        else:  # macOS
            file.truncate(max(size, 1))
    except OSError as error:
        file.close()
        if error.errno not in FULL:
            raise
        raise OSError(
            error.errno, f"{folder} needs room for {size / 1e9:.3g} GB: {error.strerror}"
        ) from error
    return file


def mapped_array(shape: tuple[int, ...], dtype: np.dtype, folder: PathLike | None) -> np.ndarray:
    """A writable array of zeros in a file without a name in `folder`, or in memory if `folder` is None.

    Raises what `reserved_file` raises.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if folder is None or not size:
        return np.zeros(shape, dtype)
    with reserved_file(folder, size) as file:  # the mapping keeps the file
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
