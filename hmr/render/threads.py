"""Draws pictures in parallel on CPU threads; the compiled kernels and Pillow release the GIL.

numba's parallel loops are not used because they are not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from common.stopping import stoppable

__all__ = ["parallel_map"]

Result = TypeVar("Result")


def parallel_map(function: Callable[[int], Result], count: int, threads: int | None = None) -> list[Result]:
    """`function` of 0 ... count-1, on `threads` threads; None: as many as torch uses.

    The pool exists for one call only, because a child process that inherits a pool by fork hangs.
    """
    workers = min(count, torch.get_num_threads() if threads is None else threads)
    if workers <= 1:
        return [function(index) for index in range(count)]
    with stoppable(ThreadPoolExecutor(workers)) as pool:
        return list(pool.map(function, range(count)))
