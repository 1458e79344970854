"""Random streams that depend on what they are for, not on when they are drawn.

A generator derived from (seed, image) or (seed, step, row) gives the same numbers whatever the batch size,
the number of processes, or the place where an interrupted run was taken up again.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_generator", "derive_seed"]


def derive_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the SHA-256 of `key`: equal keys, equal streams, on every machine."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(key)[:7], "big"))


def derive_seed(*key: int | str) -> int:
    """The same for whoever takes a number: 32 bits, as many as NumPy's generators take."""
    return int.from_bytes(_digest(key)[:4], "big")


def _digest(key: tuple[int | str, ...]) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()
