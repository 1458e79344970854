"""Options that several commands share, worded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Anyway", "BodyFile", "Boxes", "DetectorSpec", "Device", "Json", "Out", "PolicyDir", "Seed", "Ucb", "a_file",
    "a_folder",
]  # fmt: skip

Check = Callable[[Path | None], Path | None]


def a_folder(option: str) -> Check:
    """The callback of an option that names a folder to write: a ValueError where a file is in its place."""

    def check(folder: Path | None) -> Path | None:
        if folder and (file := _file_among(folder, *folder.parents)):
            raise ValueError(f"{option} takes a folder, new or old, and {file} is a file")
        return folder

    return check


def a_file(option: str) -> Check:
    """The same of a file to write: a ValueError where a folder is in its place, or a file in its folder's."""

    def check(file: Path | None) -> Path | None:
        if file and file.is_dir():
            raise ValueError(f"{option} takes a file, new or old, and {file} is a folder")
        if file and (other := _file_among(*file.parents)):
            raise ValueError(f"{option} takes a file in a folder, and {other} is a file")
        return file

    return check


def _file_among(*folders: Path) -> Path | None:
    return next((path for path in folders if path.exists() and not path.is_dir()), None)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
PolicyDir = Annotated[
    Path | None, typer.Option("--policy", help="A checkpoint folder; default: the shipped one.")
]
Device = Annotated[str, typer.Option("--device", help="Where the policy runs: cpu, cuda, cuda:1, mps.")]
BodyFile = Annotated[
    Path | None, typer.Option("--body", help="An SMPL file (.npz, .pkl); default: the embedded body.")
]
DetectorSpec = Annotated[
    str,
    typer.Option(
        "--detector", help="embedded, or transformers:FINDER,POSE,SEGMENTER (hub names or folders)."
    ),
]
Boxes = Annotated[
    list[str] | None, typer.Option("--box", help="x0,y0,x1,y1 of a person in pixels; repeatable.")
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Pose a box even where the encoder is unsure.")]
Out = Annotated[Path, typer.Option("--out", callback=a_folder("--out"), help="Folder for what is written.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Ucb = Annotated[
    float,
    typer.Option("--ucb", help="C, how eagerly exploration tries rules that were used little; 0: never."),
]
