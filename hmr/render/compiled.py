"""The one way this house compiles inner loops with numba."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

__all__ = ["compiled"]


def compiled(function: Callable) -> Callable:
    """numba's machine code, free of the interpreter's lock so that threads share a batch. Kept on disk where
    numba finds a folder it may write to, compiled anew in each process where it does not.

    Put `typing.no_type_check` under it: it keeps jaxtyping's import hook (tests) from wrapping what numba has to read.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)
