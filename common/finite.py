"""Weights that are not finite: training stops at the first one, and a checkpoint with one is refused.

A loss or gradient that is not finite makes the optimizer's step write such weights, so one check after each step covers
all three.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

__all__ = ["FiniteWeights", "check_weights", "weights_after_step"]


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


class FiniteWeights(TrainerCallback):
    """Stops a `transformers.Trainer` with ValueError after the first step with such weights."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trained = ((name, p) for name, p in kwargs["model"].named_parameters() if p.requires_grad)
        weights_after_step(trained, state.global_step, args.learning_rate)
