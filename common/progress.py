"""Progress of long work, as callbacks: the work names each stage and its size, and reports how much of it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Stage", "Tick"]


class Tick(Protocol):
    """Receives how much of a stage is done, and optionally a figure to show beside it."""

    def __call__(self, done: int, note: str = "", /) -> None: ...


Stage = Callable[[str, int], Tick]  # (title, total) -> tick
