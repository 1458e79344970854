"""The backend that a command was asked for, with everything about it: cache, recording, budget, dry run, and the
sentence that names a remote host before a photograph leaves the machine.

From the inside out: the backend under its budget (or the dry run in its place), the reply cache, the recorder. So what
is in the cache costs no call, and a recording of a run is whole.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.vlm import VLMBackend, load_backend
from agent.vlm.replay import Recorder
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from agent.vlm.wrappers.dry_run import DryRun

__all__ = ["BackendOptions", "OpenedBackend", "opened_backend", "parse_settings"]


@dataclass(frozen=True)
class BackendOptions:
    """What the flags said (`cli/backend_flags.py`)."""

    spec: str = "embedded"
    settings: Sequence[str] = ()  # field=value each
    dry_run: bool = False
    max_calls: int | None = None
    record: Path | None = None
    reply_cache: Path | None = None


@dataclass(frozen=True)
class OpenedBackend:
    """The backend to hand to an agent, and the books: what was asked, or in a dry run what would have been."""

    backend: VLMBackend
    budget: Budget
    dry_run: DryRun | None


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def opened_backend(
    options: BackendOptions, announce: Callable[[str], None] = print_to_stderr
) -> Iterator[OpenedBackend]:
    """announce: receives the sentence that names the host. Raises ValueError or FileNotFoundError for a spec, a setting or a file that is none."""
    backend = load_backend(options.spec, **parse_settings(options.settings))
    budget, dry_run = Budget(options.max_calls), None
    with ExitStack() as files:
        if options.dry_run:
            backend = dry_run = DryRun(backend)
        else:
            _name_the_host(backend, announce)
            backend = with_budget(backend, budget)
        if options.reply_cache and (options.reply_cache.exists() or not options.dry_run):
            cache = files.enter_context(_opened_cache(options.reply_cache))
            backend = Cached(backend, cache, read_only=options.dry_run)
        if options.record and not options.dry_run:
            backend = files.enter_context(Recorder(backend, options.record))
        yield OpenedBackend(backend, budget, dry_run)


def _opened_cache(path: Path) -> ReplyCache:
    try:
        return ReplyCache(path)
    except sqlite3.OperationalError as error:  # what SQLite calls a file that it may not write
        raise ValueError(f"--reply-cache takes a file that can be written, not {path} ({error})") from error


def parse_settings(pairs: Sequence[str]) -> dict[str, str | None]:
    """field=value each; the value `none` is None. Raises ValueError for anything else."""
    settings: dict[str, str | None] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not field.isidentifier() or not equals:
            raise ValueError(f"--set takes field=value, not {pair!r}")
        settings[field] = None if value == "none" else value
    return settings


def _name_the_host(backend: VLMBackend, announce: Callable[[str], None]) -> None:
    host = backend.capabilities.sends_to
    if host and backend.capabilities.images:
        announce(f"photographs and renderings of people are sent to {host}")
    elif host:
        announce(f"measurements of people are sent to {host}")
