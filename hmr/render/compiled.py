"""Compiles inner loops with numba, with the same options everywhere."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

__all__ = ["compiled"]


def compiled(function: Callable) -> Callable:
    """Compiles a function with numba. It releases the GIL, so that threads can share a batch. The machine code is
    cached on disk if numba finds a writable folder, and otherwise compiled in each process.

    Use it above `typing.no_type_check`, which keeps jaxtyping's import hook (in tests) from wrapping the function.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)
