"""What a command says while it works: lines and progress bars on stderr, tables on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from agent.vlm.wrappers.dry_run import DryRun
    from common.progress import Stage, Tick

__all__ = ["console", "say", "say_estimate", "stages"]


def console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def say(line: str) -> None:
    print(line, file=sys.stderr)


def say_estimate(dry_run: DryRun, as_json: bool) -> None:
    account = dry_run.as_json()
    if as_json:
        print(json.dumps({"dry_run": account}))
        return
    by_task = ", ".join(f"{count} {task}" for task, count in account["by_task"].items())
    say(f"{account['backend']} would be asked up to {account['calls']} times ({by_task or 'nothing'})")
    say(
        f"{account['calls_without_doubt']} times where reflection doubts nothing; a malformed reply costs one more"
    )
    say(
        f"{account['images']} images, about {account['tokens_in']:,} tokens in and {account['tokens_out']:,} out"
    )
    say(f"to {account['sends_to']}; nothing has been sent")


@contextmanager
def stages() -> Iterator[Stage]:
    """Progress bars on stderr, one a stage, each with its note; where nobody watches, one line a finished stage."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    stderr = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bars:
        yield lambda title, total: _stage(bars, title, total)


def _stage(bars: Progress, title: str, total: int) -> Tick:
    task = bars.add_task(title, total=total, note="")

    def tick(done: int, note: str = "", /) -> None:
        bars.update(task, completed=done, note=note)
        if bars.disable and done >= total:
            say(f"done: {title}{note and ', '}{note}")

    return tick
