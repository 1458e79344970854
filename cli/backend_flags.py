"""Options that configure a VLM backend; `agent/vlm/options.py` opens the backend that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import file_to_write

if TYPE_CHECKING:
    from agent.vlm.options import BackendOptions

__all__ = [
    "BACKEND", "BackendSet", "BackendSpec", "BackendSpecs", "CritiqueSet", "CritiqueSets", "DryRunFlag", "MaxCalls",
    "Record", "ReplyCacheFile", "critique_and_backend", "critique_and_backends", "split_settings",
]  # fmt: skip

CRITIQUE_FIELDS = ("permutations", "max_revisions", "close_ups", "pictures")  # of `CritiqueSettings`
BACKEND = "Backend"  # a group of options on the help pages

BackendSpec = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        rich_help_panel=BACKEND,
        help="Model that scores the hypotheses: embedded (no language model), openai:NAME@URL, local:NAME, "
        "langchain:PROVIDER:NAME, replay:FILE, or PLUGIN:ARGUMENT of an installed plug-in "
        "(docs/guides/backends.md).",
    ),
]
BackendSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="SPEC",
        rich_help_panel=BACKEND,
        show_default="embedded",
        help="Model that scores the hypotheses (docs/guides/backends.md). Repeatable: several ones are compared on the "
        "same groups.",
    ),
]
CritiqueSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        rich_help_panel=BACKEND,
        help="Setting of the critique (permutations, max_revisions, close_ups or pictures), or of all backends, such "
        "as deadline_s=60, or of the second one: 2:deadline_s=60; repeatable.",
    ),
]
BackendSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        rich_help_panel=BACKEND,
        help="Setting of the backend, such as deadline_s=60; repeatable.",
    ),
]
CritiqueSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        rich_help_panel=BACKEND,
        help="Setting of the backend, such as deadline_s=60, or of the critique: permutations, max_revisions, "
        "close_ups or pictures; repeatable.",
    ),
]
DryRunFlag = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=BACKEND,
        help="Estimate the number of requests, images and tokens; send nothing to the backend and write nothing.",
    ),
]
MaxCalls = Annotated[
    int | None,
    typer.Option(
        min=0,
        rich_help_panel=BACKEND,
        help="Maximum number of requests in this run. The remaining groups get no score, or wait for the next run.",
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=file_to_write("--record"),
        rich_help_panel=BACKEND,
        help="Record every reply in this file, which --backend replay:FILE can read.",
    ),
]
ReplyCacheFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=file_to_write("--reply-cache"),
        rich_help_panel=BACKEND,
        help="Cache replies in this file, and send only the questions that it cannot answer.",
    ),
]


def critique_and_backend(
    spec: str,
    settings: Sequence[str] | None,
    dry_run: bool,
    max_calls: int | None,
    record: Path | None,
    reply_cache: Path | None,
) -> tuple[dict[str, Any], BackendOptions]:
    """The settings of the critique, and the backend to open, from the flags of a command."""
    from agent.vlm.options import BackendOptions

    critique, backend = split_settings(settings)
    return critique, BackendOptions(spec, backend, dry_run, max_calls, record, reply_cache, CRITIQUE_FIELDS)


def critique_and_backends(
    specs: Sequence[str] | None,
    settings: Sequence[str] | None,
    dry_run: bool,
    max_calls: int | None,
    record: Path | None,
    reply_cache: Path | None,
) -> tuple[dict[str, Any], list[BackendOptions]]:
    """As `critique_and_backend`, of several backends. Raises ValueError for a recording of several ones, and for a
    setting of a backend that is not there."""
    from agent.vlm.options import BackendOptions

    specs = specs or ["embedded"]
    if record and len(specs) > 1:
        raise ValueError(f"--record takes the replies of one backend, and {len(specs)} are given")
    own: list[list[str]] = [[] for _ in specs]
    common: list[str] = []
    for pair in settings or ():
        number, colon, setting = pair.partition(":")
        if not (colon and number.isdecimal()):
            common.append(pair)
        elif 1 <= int(number) <= len(specs):
            own[int(number) - 1].append(setting)
        else:
            raise ValueError(f"--set {pair}: there are {len(specs)} backends, counted from 1")
    critique, shared = split_settings(common)
    limits = (dry_run, max_calls, record, reply_cache, CRITIQUE_FIELDS)
    options = [
        BackendOptions(spec, [*shared, *added], *limits) for spec, added in zip(specs, own, strict=True)
    ]
    return critique, options


def split_settings(pairs: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The settings of the critique among the values of `--set`, as far as they differ from the defaults, and the other
    pairs, which are the backend's.

    Raises ValueError for a value that the critique does not accept.
    """
    from pydantic import TypeAdapter, ValidationError

    from agent.context import CritiqueSettings
    from agent.vlm.settings import parse_settings

    pairs = pairs or ()
    given = {name: value for name, value in parse_settings(pairs).items() if name in CRITIQUE_FIELDS}
    try:
        settings = TypeAdapter(CritiqueSettings).validate_python(given)
    except ValidationError as error:
        faults = "; ".join(": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors())
        raise ValueError(f"--set takes {', '.join(CRITIQUE_FIELDS)} of the critique; {faults}") from error
    values = {name: getattr(settings, name) for name in given}
    changed = {name: value for name, value in values.items() if value != getattr(CritiqueSettings, name)}
    return changed, [pair for pair in pairs if pair.partition("=")[0] not in given]
