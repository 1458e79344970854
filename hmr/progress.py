"""How long work tells of itself: whoever shows progress is told of each step by name, and hands back what ticks it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Stage"]

Stage = Callable[[str, int], Callable[[int], None]]  # (title, total) -> tick(done so far)
