"""Options that several commands share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Anyway", "BodyFile", "Boxes", "Json", "Out", "PolicyDir", "Seed"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
PolicyDir = Annotated[
    Path | None, typer.Option("--policy", help="A checkpoint folder; default: the shipped one.")
]
BodyFile = Annotated[
    Path | None, typer.Option("--body", help="An SMPL file (.npz, .pkl); default: the embedded body.")
]
Boxes = Annotated[
    list[str] | None, typer.Option("--box", help="x0,y0,x1,y1 of a person in pixels; repeatable.")
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Pose a box even where the encoder is unsure.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for what is written.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
