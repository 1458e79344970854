"""Opens the backend that a command asks for, with cache, recording, budget and dry run.

The wrappers, from the inside out: the budget (or the dry run, which replaces the backend), the reply cache, the
recorder. So a cached answer costs no call, and a recording contains every answer of the run. Before anything is sent,
the name of a remote host is announced.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.vlm import VLMBackend, load_backend
from agent.vlm.replay import Recorder
from agent.vlm.settings import UnknownSetting, parse_settings
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from agent.vlm.wrappers.dry_run import DryRun

__all__ = ["BackendOptions", "OpenedBackend", "announce_host", "open_backend"]

REPLIES = "replies.sqlite"  # in the folder of a run
WITHOUT_COST = ("embedded", "replay")  # backends that answer at once


@dataclass(frozen=True)
class BackendOptions:
    """The values of the command-line flags (`cli/backend_flags.py`)."""

    spec: str = "embedded"
    settings: Sequence[str] = ()  # each field=value
    dry_run: bool = False
    max_calls: int | None = None
    record: Path | None = None
    reply_cache: Path | None = None
    other_settings: Sequence[str] = ()  # that the same flag takes, for the message about an unknown one

    def __post_init__(self) -> None:
        if self.record and self.reply_cache and self.record.resolve() == self.reply_cache.resolve():
            raise ValueError(f"--record and --reply-cache need two files, not one: {self.record}")

    def keeping_replies_in(self, folder: Path) -> BackendOptions:
        """With a reply cache in the folder, unless there is one or answers cost nothing. A group takes several
        questions, and many groups are asked about at once: what a run that ends early was answered is used by the
        next one."""
        if self.reply_cache or self.spec.partition(":")[0] in WITHOUT_COST:
            return self
        return dataclasses.replace(self, reply_cache=folder / REPLIES)


@dataclass(frozen=True)
class OpenedBackend:
    """The backend for the agent, and the objects that count its calls; `dry_run` is None in a real run."""

    backend: VLMBackend
    budget: Budget
    dry_run: DryRun | None


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def open_backend(
    options: BackendOptions, announce: Callable[[str], None] = print_to_stderr
) -> Iterator[OpenedBackend]:
    """announce: receives the sentence that names a remote host.

    Raises ValueError or FileNotFoundError for an invalid spec, setting or file.
    """
    backend = _load(options)
    budget, dry_run = Budget(options.max_calls), None
    with ExitStack() as files:
        if options.dry_run:
            backend = dry_run = DryRun(backend)
        else:
            announce_host(backend, announce)
            backend = with_budget(backend, budget)
        if options.reply_cache and (options.reply_cache.exists() or not options.dry_run):
            cache = files.enter_context(_open_cache(options.reply_cache))
            backend = Cached(backend, cache, read_only=options.dry_run)
        if options.record and not options.dry_run:
            backend = files.enter_context(Recorder(backend, options.record))
        yield OpenedBackend(backend, budget, dry_run)


def _load(options: BackendOptions) -> VLMBackend:
    try:
        return load_backend(options.spec, **parse_settings(options.settings))
    except UnknownSetting as error:
        others = ", ".join(options.other_settings)
        raise ValueError(f"{error}{others and f'; the critique has {others}'}") from error


def _open_cache(path: Path) -> ReplyCache:
    try:
        return ReplyCache(path)
    except sqlite3.OperationalError as error:  # the file cannot be written
        raise ValueError(f"--reply-cache takes a file that can be written, not {path} ({error})") from error


def announce_host(backend: VLMBackend, announce: Callable[[str], None]) -> None:
    """Pass on the sentence that names the host to which a remote backend sends; none for a local one."""
    host = backend.capabilities.sends_to
    if host and backend.capabilities.images:
        announce(f"photographs and renderings of people are sent to {host}")
    elif host:
        announce(f"measurements of people are sent to {host}")
