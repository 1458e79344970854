"""Opens the memory in a folder: the database `memory.sqlite`, with its index caches `rules.faiss` and
`prototypes.faiss`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from common.storage.files import PathLike
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.vectors.embed import TextEmbedder

__all__ = ["Memory", "open_memory", "open_store", "removed_if_new_and_failed", "store_path"]


@dataclass(frozen=True)
class Memory:
    """The memory of a critic. Closing it, or leaving its `with` block, writes the index caches."""

    store: MemoryStore
    rules: RuleMemory
    prototypes: PrototypeMemory

    @property
    def folder(self) -> Path | None:
        """None for a memory in RAM."""
        return self.store.path and self.store.path.parent

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The indexes are saved first; the database is closed even if that fails."""
        with closing(self.store):
            self.rules.save_index()
            self.prototypes.save_index()


def store_path(folder: PathLike) -> Path:
    return Path(folder) / "memory.sqlite"


@contextmanager
def removed_if_new_and_failed(folder: PathLike) -> Iterator[None]:
    """A block that fills a memory. If it fails, and there was no memory before, none is left."""
    path = store_path(folder)
    is_new = not path.exists()
    try:
        yield
    except BaseException:
        if is_new:
            for file in path.parent.glob(f"{path.name}*"):
                file.unlink()
            with suppress(OSError):  # other files are in it, or it was never made
                path.parent.rmdir()
        raise


def open_store(folder: PathLike, frozen: bool = False) -> MemoryStore:
    """The database of an existing memory, written with any embedders; read-only if `frozen` or if the file is.

    Raises FileNotFoundError if `folder` holds no memory.
    """
    path = store_path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: there is no memory here")
    return MemoryStore(path, frozen=frozen or not os.access(path, os.W_OK))


def open_memory(
    folder: PathLike | None,
    embedder: TextEmbedder,
    image_embedder_name: str,
    dim: int,
    exploration: float = 0.5,
    frozen: bool = False,
    capacity: int = 512,
) -> Memory:
    """Opens the memory in `folder`, or creates one unless `frozen`; `dim` is the length of the image embeddings.

    folder: None for a memory in RAM. Raises FileNotFoundError if a frozen memory does not exist, ValueError if the file
    is not a memory or was written with other embedders.
    """
    store = MemoryStore(":memory:" if folder is None else store_path(folder), frozen)
    try:
        rules = RuleMemory(store, embedder, exploration)
        prototypes = PrototypeMemory(store, dim, image_embedder_name, capacity)
    except BaseException:
        store.close()
        raise
    return Memory(store, rules, prototypes)
