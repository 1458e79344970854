"""What a command says while it works: lines and progress bars on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["console", "say", "stages"]


def console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def stages() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Progress bars on stderr, one a stage; where nobody watches, one line a finished stage."""
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
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bars:
        yield lambda title, total: _stage(bars, title, total)


def _stage(bars: Progress, title: str, total: int) -> Callable[[int], None]:
    task = bars.add_task(title, total=total)

    def tick(done: int) -> None:
        bars.update(task, completed=done)
        if bars.disable and done >= total:
            say(f"done: {title}")

    return tick
