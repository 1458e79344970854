"""Pictures drawn side by side on CPU threads: what draws them, compiled or Pillow's, is free of the interpreter's lock.

numba's own parallel loops are not safe to enter from several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["each"]

Drawn = TypeVar("Drawn")


def each(draw: Callable[[int], Drawn], count: int, threads: int | None = None) -> list[Drawn]:
    """`draw` of 0 ... count-1, on as many threads as torch was given when `threads` is None.

    Threads live for one call: a pool kept over a fork hangs the child.
    """
    workers = min(count, torch.get_num_threads() if threads is None else threads)
    if workers <= 1:
        return [draw(index) for index in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(draw, range(count)))
