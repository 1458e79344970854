"""Results that do not depend on the order of execution: random generators derived from a key, and one thread.

A generator derived from (seed, image) or (seed, step, row) gives the same numbers for any batch size, any number of
processes, and after an interrupted run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor

from common.storage.fingerprint import digest

__all__ = ["Generators", "derive_generator", "derive_seed", "one_thread", "standard_normal"]

Generators = torch.Generator | Sequence[torch.Generator]  # one for a whole batch, or one for each of its rows

_LOCK = RLock()


def derive_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded with the SHA-256 of `key`: equal keys give equal streams on every machine."""
    return torch.Generator().manual_seed(int(digest(repr(key), length=14), 16))


def derive_seed(*key: int | str) -> int:
    """The same as a 32-bit integer, which NumPy's generators accept."""
    return int(digest(repr(key), length=8), 16)


def standard_normal(shape: Sequence[int], generators: Generators) -> Tensor:
    """Normal numbers of `shape`, on the device of the generators. With one generator per row, the first axis of
    `shape`, a row has the same numbers in any batch."""
    if isinstance(generators, torch.Generator):
        return torch.randn(tuple(shape), generator=generators, device=generators.device)
    if len(generators) != shape[0]:
        raise ValueError(f"{shape[0]} rows need as many generators, not {len(generators)}")
    return torch.stack([standard_normal(shape[1:], generator) for generator in generators])


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread inside the block. Sums over more threads are in another order and round
    differently, so that what is drawn from them would depend on the machine's load and on the number of processes.

    Blocks of several threads run one after another: overlapping ones would restore each other's number."""
    with _LOCK:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
