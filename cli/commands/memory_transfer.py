"""The commands of `meshcritic memory` that export, import, merge and recover whole memories."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import print_json, print_message
from cli.memory_folder import Folder, TextEmbedder, open_to_write
from cli.options import Json

if TYPE_CHECKING:
    from memory.transfer.exchange import MemoryDocument

__all__ = ["export_memory", "import_memory", "merge_memory", "recover_memory"]

KeepStates = Annotated[
    bool,
    typer.Option(
        "--keep-states",
        help="Admit the rules that are admitted in the other memory. Default: they start in quarantine.",
    ),
]
Similarity = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Cosine similarity of two sentences from which their rules are merged."
    ),
]
WithoutPrototypes = Annotated[
    bool, typer.Option("--without-prototypes", help="Add only rules and cases, no prototypes.")
]


def export_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
    as_json: Json = False,
) -> None:
    """Export a memory to one JSON file.

    Example: `meshcritic memory export runs/demo/memory memory.json`
    """
    from memory.folder import open_store
    from memory.transfer.exchange import snapshot, write_document

    with open_store(folder) as store:
        document = snapshot(store)
    write_document(document, file)
    counts = {name: len(getattr(document, name)) for name in ("rules", "cases", "prototypes")}
    if as_json:
        print_json({"file": str(file), **counts})
        return
    print_message(f"{file}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def import_memory(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="JSON file written by `meshcritic memory export`.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Add an exported memory to this one. The folder is created if missing.

    Sentences are embedded again. Prototypes can only be added to a memory with the same image embedder.

    Example: `meshcritic memory import runs/mine/memory memory.json --keep-states`
    """
    from memory.transfer.exchange import read_document

    document = read_document(file)
    _merge(folder, document, file.name, keep_states, without_prototypes, similarity, text_embedder, as_json)


def merge_memory(
    folder: Folder,
    other: Annotated[Path, typer.Argument(help="Folder of the memory to add; it is not changed.")],
    keep_states: KeepStates = False,
    without_prototypes: WithoutPrototypes = False,
    similarity: Similarity = 0.95,
    text_embedder: TextEmbedder = None,
    as_json: Json = False,
) -> None:
    """Add another memory to this one. Each case counts once, and rules with the same meaning are merged.

    Example: `meshcritic memory merge runs/demo/memory runs/other/memory --keep-states`
    """
    from memory.transfer.exchange import read_memory

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no memory here")
    document = read_memory(other)
    source = "/".join(other.resolve().parts[-2:])
    _merge(folder, document, source, keep_states, without_prototypes, similarity, text_embedder, as_json)


def recover_memory(
    folder: Annotated[Path, typer.Argument(help="Folder of the damaged memory; it is not changed.")],
    new: Annotated[Path, typer.Argument(help="Folder for what can be read of it.")],
    as_json: Json = False,
) -> None:
    """Copy what is whole of a damaged memory into a new folder.

    Exploring into the new folder adds the cases that were lost.

    Example: `meshcritic memory recover runs/demo/memory runs/demo/recovered`
    """
    from memory.transfer.recovery import recover

    copied = recover(folder, new)
    if as_json:
        print_json({"folder": str(new), **copied})
        return
    counts = ", ".join(f"{copied[name]} {name}" for name in ("rules", "cases", "prototypes"))
    print_message(f"{new}: {counts}")


def _merge(
    folder: Path,
    document: MemoryDocument,
    source: str,
    keep_states: bool,
    without_prototypes: bool,
    similarity: float,
    text_embedder: str | None,
    as_json: bool,
) -> None:
    from memory.prototype_memory import PrototypeMemory
    from memory.transfer.merge import merge_document
    from memory.vectors.embed import load_text_embedder

    with open_to_write(folder, load_text_embedder(text_embedder)) as (store, rules):
        prototypes = None
        if document.prototypes and not without_prototypes:
            embedder = _common_embedder(store.meta("image_embedder"), document)
            prototypes = PrototypeMemory(store, len(document.prototypes[0].vector), embedder)
        report = merge_document(rules, prototypes, document, source, keep_states, similarity)
    if as_json:
        print_json(asdict(report))
        return
    print_message(
        f"{report.rules_added} rules added, {report.rules_joined} merged with an equivalent rule; "
        f"{report.cases_added} cases added, {report.cases_known} already known; "
        f"{report.prototypes_kept} prototypes added"
    )


def _common_embedder(ours: str | None, document: MemoryDocument) -> str:
    """The image embedder of both memories. Raises ValueError if they differ."""
    theirs = document.image_embedder
    assert theirs is not None  # a document with prototypes names their embedder
    if ours not in (None, theirs):
        raise ValueError(
            f"the prototypes of this memory are embeddings of {ours!r}, those of the other one of {theirs!r}; "
            "--without-prototypes adds only rules and cases"
        )
    return theirs
