"""The flags about a VLM backend, worded once; `agent/vlm/options.py` is what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import a_file

__all__ = [
    "BackendSet", "BackendSpec", "CritiqueSet", "DryRunFlag", "MaxCalls", "Record", "ReplyCacheFile",
    "split_settings",
]  # fmt: skip

OF_THE_CRITIQUE = ("permutations", "max_revisions", "close_ups", "pictures")  # fields of `CritiqueSettings`

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


def split_settings(pairs: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What `--set` says of the critique where that is not the default, and the pairs that are left for the backend.

    Raises ValueError for a value that the critique does not take.
    """
    from pydantic import TypeAdapter, ValidationError

    from agent.context import CritiqueSettings
    from agent.vlm.options import parse_settings

    asked = {name: value for name, value in parse_settings(pairs).items() if name in OF_THE_CRITIQUE}
    try:
        settings = TypeAdapter(CritiqueSettings).validate_python(asked)
    except ValidationError as error:
        faults = "; ".join(": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors())
        raise ValueError(f"--set takes {', '.join(OF_THE_CRITIQUE)} of the critique; {faults}") from error
    changed = {name: getattr(settings, name) for name in asked}
    unusual = {name: value for name, value in changed.items() if value != getattr(CritiqueSettings, name)}
    return unusual, [pair for pair in pairs if pair.partition("=")[0] not in asked]
