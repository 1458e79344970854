"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear layers of the submodule that is trained, by peft.

Only the adapters move, which keeps a policy nearer to its reference than full fine-tuning at the same learning rate;
without them (their product starts at zero) it is the reference. Left out: adapters kept apart from the policy. After
training they are merged, so that an aligned policy is a policy like any other.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Adapters"]

NAME = "default"


class Adapters:
    """Adapters of one rank on every linear layer of a module, in place; `seed` draws their first values.

    Raises ValueError if the module has no linear layer.
    """

    def __init__(self, module: nn.Module, rank: int, seed: int) -> None:
        from peft import LoraConfig, LoraModel

        linear = [name for name, layer in module.named_modules() if name and isinstance(layer, nn.Linear)]
        if not linear:
            raise ValueError("LoRA adapts linear layers inside the trained submodule, and there are none")
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear, lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(seed)
            self._tuner = LoraModel(module, {NAME: config}, NAME)

    def merge(self) -> None:
        """Add what was learned to the weights and take the adapters away."""
        self._tuner.merge_and_unload()
