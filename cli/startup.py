"""A faster start of the commands that import torch and transformers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """For the imports of a command: they create more than a million objects that live as long as the process, and the
    garbage collector would visit them again and again, for a seventh of the time (docs/results/speed.md)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections leave out what exists now
        if was_enabled:
            gc.enable()
