"""The folder of a critic's memory as an argument of commands, and how it is opened to write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from memory.rule_memory import RuleMemory
    from memory.store import MemoryStore
    from memory.vectors.embed import TextEmbedder as SentenceEmbedder

__all__ = ["Folder", "TextEmbedder", "open_to_write"]

Folder = Annotated[Path, typer.Argument(help="Folder of the memory, such as runs/demo/memory.")]
TextEmbedder = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Sentence embedding model of this memory. Default: the packaged MiniLM."
    ),
]


@contextmanager
def open_to_write(folder: Path, embedder: SentenceEmbedder) -> Iterator[tuple[MemoryStore, RuleMemory]]:
    """The memory in the folder, or a new one, of which nothing is left if the block fails."""
    from memory.folder import removed_if_new_and_failed, store_path
    from memory.rule_memory import RuleMemory
    from memory.store import MemoryStore

    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; a memory is a folder")
    with removed_if_new_and_failed(folder), MemoryStore(store_path(folder)) as store:
        yield store, RuleMemory(store, embedder)
