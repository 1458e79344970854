"""The check of `common.finite` as a callback; apart from it, because transformers' trainer imports the libraries of
training, which a photograph does not need."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from common.finite import weights_after_step

__all__ = ["FiniteWeights"]


class FiniteWeights(TrainerCallback):
    """Stops a `transformers.Trainer` with ValueError after the first step with such weights."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trained = ((name, p) for name, p in kwargs["model"].named_parameters() if p.requires_grad)
        weights_after_step(trained, state.global_step, args.learning_rate)
