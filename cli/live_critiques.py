"""A line on the terminal for every group that is being critiqued: what is asked, how long, and the tokens so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.events import CritiqueEvent
    from hmr.types import Sample

__all__ = ["GroupProgress", "LiveCritiques", "live_critiques"]

REFRESH_PER_S = 4


@dataclass
class GroupProgress:
    """What has happened in one group's critique."""

    started_s: float = field(default_factory=time.monotonic)
    node: str = ""
    asked: int = 0
    answered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, event: CritiqueEvent) -> None:
        from agent.events import AnswerReceived, NodeStarted, QuestionSent

        if isinstance(event, NodeStarted):
            self.node = event.node.replace("_", " ")
        elif isinstance(event, QuestionSent):
            self.asked += 1
        elif isinstance(event, AnswerReceived):
            self.answered += 1
            self.tokens_in += event.tokens_in
            self.tokens_out += event.tokens_out

    def line(self, now_s: float) -> str:
        parts = [self.node]
        if self.asked:
            parts.append(f"{self.answered} of {self.asked} answers")
        if self.tokens_in or self.tokens_out:
            parts.append(f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out")
        return ", ".join([*parts, f"{now_s - self.started_s:.0f} s"])


class LiveCritiques:
    """Collects the events of several groups, which may come from several threads, and renders a line for each."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._numbers = {sample.id: number for number, sample in enumerate(samples)}
        self._groups: dict[int, GroupProgress] = {}
        self._lock = threading.Lock()

    def __call__(self, sample: Sample, event: CritiqueEvent) -> None:
        from agent.events import CritiqueFinished

        number = self._numbers[sample.id]
        with self._lock:
            if isinstance(event, CritiqueFinished):
                self._groups.pop(number, None)
            else:
                self._groups.setdefault(number, GroupProgress()).add(event)

    def lines(self) -> str:
        now_s = time.monotonic()
        with self._lock:
            groups = sorted(self._groups.items())
            return "\n".join(f"person {number}: {group.line(now_s)}" for number, group in groups)


@contextmanager
def live_critiques(samples: Sequence[Sample], visible: bool = True) -> Iterator[LiveCritiques | None]:
    """Show the progress of these groups on stderr within the block; None if that is no terminal, or not `visible`."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    stderr = Console(stderr=True)
    if not visible or not stderr.is_terminal:
        yield None
        return
    groups = LiveCritiques(samples)
    with Live(
        get_renderable=lambda: Text(groups.lines()),
        console=stderr,
        transient=True,
        refresh_per_second=REFRESH_PER_S,
        redirect_stdout=False,
    ):
        yield groups
