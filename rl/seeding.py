"""Random streams that depend on what they are for, not on when they are drawn.

A generator derived from (seed, image) or (seed, step, row) gives the same numbers whatever the batch size,
the number of processes, or the place where an interrupted run was taken up again.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_generator"]


def derive_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the SHA-256 of `key`: equal keys, equal streams, on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
