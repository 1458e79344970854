"""Both memories in one folder: `memory.sqlite` is the truth, `rules.faiss` and `prototypes.faiss` are caches
of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from memory.embed import TextEmbedder
from memory.prototypes import PrototypeMemory
from memory.rules import RuleMemory
from memory.store import MemoryStore

__all__ = ["Memory", "open_memory", "open_stored", "store_path"]


@dataclass(frozen=True)
class Memory:
    """What a critic remembers; closing it, as leaving the `with` block does, caches the indices."""

    store: MemoryStore
    rules: RuleMemory
    prototypes: PrototypeMemory

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.rules.save_index()
        self.prototypes.save_index()
        self.store.close()


def store_path(folder: Path) -> Path:
    return folder / "memory.sqlite"


def open_stored(folder: Path, frozen: bool = False) -> MemoryStore:
    """The database of a memory that is there, whatever embedders it was written with; read-only if `frozen`, and
    where the file is.

    Raises FileNotFoundError if `folder` holds no memory.
    """
    path = store_path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: there is no memory here")
    return MemoryStore(path, frozen=frozen or not os.access(path, os.W_OK))


def open_memory(
    folder: Path,
    embedder: TextEmbedder,
    image_embedder_name: str,
    dim: int,
    exploration: float = 0.5,
    frozen: bool = False,
    capacity: int = 512,
) -> Memory:
    """Opens the memory in `folder`, making a new one unless `frozen`; `dim` is the length of an image
    embedding.

    Raises FileNotFoundError for a frozen memory that does not exist, ValueError if the folder holds
    something else or was written with other embedders.
    """
    store = MemoryStore(store_path(folder), frozen)
    try:
        rules = RuleMemory(store, embedder, exploration)
        prototypes = PrototypeMemory(store, dim, image_embedder_name, capacity)
    except ValueError:
        store.close()
        raise
    return Memory(store, rules, prototypes)
