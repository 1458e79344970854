"""How long work tells of itself: whoever shows progress is told of each step by name, and hands back what ticks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Stage", "Tick"]


class Tick(Protocol):
    """Told how much is done so far and, where there is one, the figure to watch meanwhile."""

    def __call__(self, done: int, note: str = "", /) -> None: ...


Stage = Callable[[str, int], Tick]  # (title, total) -> tick
