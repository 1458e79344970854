"""Output of the commands: messages and progress bars on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from agent.vlm.wrappers.dry_run import DryRun
    from common.progress import Stage, Tick

__all__ = [
    "console",
    "escaped",
    "escaped_text",
    "print_estimate",
    "print_json",
    "print_message",
    "report_lost_questions",
    "stages",
]

LINE_EVERY_S = 30.0  # of a stage, where there is no progress bar


def console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def print_message(line: str) -> None:
    """Print a message on stderr, escaped."""
    print(escaped(line), file=sys.stderr)


def escaped(text: str) -> str:
    """The text with "\\x1b" in place of an escape character, and so on for every other character that does not print.

    File names, memories and the comments of models are untrusted: their control codes could rewrite what a terminal
    shows, for example a rule that is about to be admitted. Line breaks and tabs are kept.
    """
    return "".join(
        char
        if char.isprintable() or char in "\n\t"
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def escaped_text(text: str) -> Text:
    """An untrusted text in a table, escaped; nothing in it is markup."""
    from rich.text import Text

    return Text(escaped(text))


def print_json(value: Any) -> None:
    print(json.dumps(value))


def print_estimate(dry_run: DryRun, as_json: bool) -> None:
    counts = dry_run.as_json()
    if as_json:
        print_json({"dry_run": counts})
        return
    by_task = ", ".join(f"{count} {task}" for task, count in counts["by_task"].items())
    print_message(f"{counts['backend']} would get at most {counts['calls']} requests ({by_task or 'none'})")
    print_message(
        f"{counts['calls_if_certain']} requests if reflection marks nothing as uncertain; a malformed reply adds one"
    )
    print_message(
        f"{counts['images']} images, about {counts['tokens_in']:,} tokens in and {counts['tokens_out']:,} tokens out"
    )
    print_message(f"to {counts['sends_to']}; nothing has been sent")


@contextmanager
def report_lost_questions() -> Iterator[None]:
    """Around a run: prints at its end, also if it fails, how many questions to a backend were lost and why."""
    from agent.scoring.tally import tallied_questions
    from common.stopping import is_stopped

    with tallied_questions() as tally:
        try:
            yield
        finally:
            if not is_stopped():  # the signal is the reason then
                for sentence in tally.lost():
                    print_message(sentence)


@contextmanager
def stages() -> Iterator[Stage]:
    """One progress bar per stage on stderr; without a terminal, one line per finished stage, and one every LINE_EVERY_S
    of a long one."""
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bars:
        yield lambda title, total: _stage(bars, title, total)


def _stage(bars: Progress, title: str, total: int) -> Tick:
    title = escaped(title)  # of a video: the name of its file
    task, started_s = bars.add_task(title, total=total, note=""), time.monotonic()
    printed_s = started_s

    def tick(done: int, note: str = "", /) -> None:
        nonlocal printed_s
        bars.update(task, completed=done, note=note)
        now_s = time.monotonic()
        if bars.disable and done >= total:
            print_message(f"done: {title}{note and ', '}{note} ({now_s - started_s:.0f} s)")
        elif bars.disable and now_s - printed_s >= LINE_EVERY_S:
            printed_s = now_s
            print_message(f"{title}: {done} of {total}{note and ', '}{note} ({now_s - started_s:.0f} s)")

    return tick
