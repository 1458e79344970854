"""Files that appear whole or not at all: written beside their destination, then moved onto it in one step."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CONFIGS",
    "PathLike",
    "atomic_folder",
    "atomic_path",
    "delete_partial_files",
    "write_bytes",
    "write_text",
]

MAX_NAME_BYTES = 200
_PARTIAL = re.compile(r"\..+\.\d+\.\d+\.partial")  # of `atomic_path`
PathLike = str | os.PathLike[str]
CONFIGS = Path(__file__).parents[2] / "configs"  # recipes: YAML files, a package


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`. The file written there replaces `path` at the end of the block, and is
    deleted if the block raises. The folder must exist.

    The temporary name holds the process and thread ids, so that two writers of the same file do not mix their bytes.
    """
    path = Path(path)
    partial = path.with_name(f".{_start_of(path.name)}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def delete_partial_files(folder: PathLike) -> None:
    """Deletes what killed runs left under `folder` in writing files; none may be running there now."""
    for path in Path(folder).rglob("*.partial"):
        if _PARTIAL.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _start_of(name: str) -> str:
    """As much of a file's name as leaves room in the temporary one; file systems allow 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:MAX_NAME_BYTES])


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which becomes `path` at the end of the block. What a killed run left there
    is deleted first; `path` must not exist, or be empty.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_bytes(path: PathLike, content: bytes) -> None:
    """Replace the file's content in one step."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: PathLike, content: str) -> None:
    """Replace the file's content in one step, in UTF-8."""
    with atomic_path(path) as partial:
        partial.write_text(content, encoding="utf-8")
