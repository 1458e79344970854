"""Derives random generators from a key, so that results do not depend on the order of execution.

A generator derived from (seed, image) or (seed, step, row) gives the same numbers for any batch size, any number of
processes, and after an interrupted run is resumed.
"""

from __future__ import annotations

import torch

from common.fingerprint import digest

__all__ = ["derive_generator", "derive_seed"]


def derive_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded with the SHA-256 of `key`: equal keys give equal streams on every machine."""
    return torch.Generator().manual_seed(int(digest(repr(key), length=14), 16))


def derive_seed(*key: int | str) -> int:
    """The same as a 32-bit integer, which NumPy's generators accept."""
    return int(digest(repr(key), length=8), 16)
