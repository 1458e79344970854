"""One run per folder: a lock that ends with its process, and the removal of what a killed run left half written.

    FOLDER/.lock    while a run is writing there; holds the number of its process

The kernel holds the lock (`fcntl`), so a kill releases it, and child processes do not inherit it. A second lock of the
same folder by the same process is part of the first one. Under `accelerate launch` the first process holds it for all.

Left out: systems without `fcntl`, where nothing is locked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.storage.files import PathLike, delete_partial_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["single_run"]

LOCK = ".lock"
_held: set[Path] = set()  # by this process


@contextmanager
def single_run(*folders: PathLike) -> Iterator[None]:
    """A block in which no other process has these folders in such a block; they are created if necessary, and
    removed if they stay empty.

    Temporary files of killed runs are deleted first. Raises ValueError if another run is writing to one of them.
    """
    if not folders:
        yield
        return
    with _locked(Path(folders[0]).resolve()), single_run(*folders[1:]):
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None or folder in _held or os.environ.get("RANK", "0") != "0":
        yield
        return
    is_new = not folder.exists()
    file = _acquired(folder / LOCK)
    _held.add(folder)
    try:
        delete_partial_files(folder)
        yield
    finally:
        _held.discard(folder)
        with suppress(OSError):
            (folder / LOCK).unlink()
            if is_new:
                folder.rmdir()  # if the run has written nothing
        os.close(file)


def _acquired(path: Path) -> int:
    """A descriptor that holds the lock. The file is deleted by the process that held it, so it may have to be opened
    again."""
    assert fcntl is not None
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the process that held it has just removed the empty folder
            continue
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            process = os.read(file, 20).decode(errors="replace").strip()
            os.close(file)
            raise ValueError(
                f"{path.parent} is in use by another run (process {process or 'unknown'}); wait for it, or choose "
                "another folder"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            return file
        os.close(file)
