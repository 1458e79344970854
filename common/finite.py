"""Weights that are not finite: training stops at the first one, and a checkpoint with one is refused.

A loss or gradient that is not finite makes the optimizer's step write such weights, so one check after each step covers
all three.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["check_weights", "weights_after_step"]


def check_weights(named: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raises ValueError, which begins with `where`, if a tensor holds a number that is not finite."""
    tensors = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
    if not tensors or torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all():
        return  # one synchronisation with the device
    first = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    raise ValueError(f"{where}: weights that are not finite numbers, first in {first}")


def weights_after_step(named: Iterable[tuple[str, Tensor]], step: int, learning_rate: float) -> None:
    """Raises ValueError if a step of an optimizer has written weights that are not finite."""
    advice = f"a learning_rate below {learning_rate:g} may help"
    check_weights(named, f"training has stopped after step {step} ({advice})")
