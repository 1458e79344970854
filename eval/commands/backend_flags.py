"""The flags about a VLM backend, worded once; `eval/backend_options.py` is what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.commands.options import a_file

__all__ = [
    "BackendSet", "BackendSpec", "CritiqueSet", "DryRunFlag", "MaxCalls", "Record", "ReplyCacheFile",
]  # fmt: skip

BackendSpec = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Who judges: embedded, openai:NAME@URL, local:NAME, langchain:PROVIDER:NAME, replay:FILE, "
        "or an installed plug-in's NAME:ARGUMENT (docs/backends.md).",
    ),
]
BackendSet = Annotated[
    list[str] | None,
    typer.Option("--set", help="field=value, a setting of the backend such as deadline_s=60; repeatable."),
]
CritiqueSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="field=value, a setting of the backend such as deadline_s=60, or of the critique: permutations, "
        "max_revisions, close_ups, pictures; repeatable.",
    ),
]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Count calls, images and tokens; ask nobody and write nothing.")
]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        "--max-calls",
        min=0,
        help="Requests that this run may make; what is left gets no score, or waits for the next run.",
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record",
        callback=a_file("--record"),
        help="Write every reply to this file, for --backend replay:FILE.",
    ),
]
ReplyCacheFile = Annotated[
    Path | None,
    typer.Option(
        "--reply-cache",
        callback=a_file("--reply-cache"),
        help="Keep answers in this file and ask only for what is missing.",
    ),
]
