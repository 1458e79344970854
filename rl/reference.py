"""The weights that are trained, three times: as they are, as they began (the reference), and averaged (EMA).

The reference is not a second model: its weights trade places with the live ones for a forward pass, and so do the
averages for an evaluation. That costs nothing, and it serves weights that FSDP has sharded too, whose forward pass
gathers them anew. A pass under traded weights must come before the one that gradients will be taken of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["TrainedWeights"]


class TrainedWeights:
    """Of every parameter of `policy` that requires a gradient, by its name."""

    def __init__(self, policy: nn.Module, ema_decay: float) -> None:
        self.policy, self.decay = policy, ema_decay
        self.live = _trainable(policy)
        self.reference = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.ema = EMAModel(self.live.values(), decay=ema_decay, foreach=True)

    def follow(self) -> None:
        """Where training has sharded the policy its parameters are others now: take them, and shard the rest alike."""
        live = _trainable(self.policy)
        if all(live[name] is tensor for name, tensor in self.live.items()):
            return
        averages = self.averages
        self.live = live
        self.reference = {name: _placed_like(self.reference[name], live[name]) for name in live}
        self.ema = EMAModel(live.values(), decay=self.decay, foreach=True)
        self.ema.shadow_params = [_placed_like(averages[name], live[name]) for name in live]

    @property
    def averages(self) -> dict[str, Tensor]:
        return dict(zip(self.live, self.ema.shadow_params, strict=True))

    def step(self) -> None:
        """Draw the averages after the live weights, once an optimizer step."""
        self.ema.step(self.live.values())

    @torch.no_grad()
    def settle(self) -> None:
        """At the end of training the policy becomes its average."""
        for name, average in self.averages.items():
            self.live[name].copy_(average)

    def average_is_live(self) -> None:
        """What was loaded into the policy is the average from now on."""
        self.ema.shadow_params = [tensor.detach().clone() for tensor in self.live.values()]

    def as_reference(self) -> contextlib.AbstractContextManager[None]:
        return self._traded(self.reference.values())

    def as_average(self) -> contextlib.AbstractContextManager[None]:
        return self._traded(self.ema.shadow_params)

    @contextlib.contextmanager
    def _traded(self, lent: Iterable[Tensor]) -> Iterator[None]:
        pairs = list(zip(self.live.values(), lent, strict=True))
        self._trade(pairs)
        try:
            yield
        finally:
            self._trade(pairs)

    @torch.no_grad()
    def _trade(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        for one, other in pairs:
            if isinstance(one, DTensor):  # FSDP gathers from the memory that it knows: values must move
                kept = one.detach().clone()
                one.copy_(other)
                other.copy_(kept)
            else:
                one.data, other.data = other.data, one.data
        for module in self.policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # or the next pass would find what the last one gathered

    def state(self) -> dict[str, Tensor]:
        """All three, whole; every process must ask, for shards are gathered."""
        kinds = {"live": self.live, "reference": self.reference, "average": self.averages}
        return {f"{kind}/{name}": _whole(one) for kind, some in kinds.items() for name, one in some.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        kinds = {"live": self.live, "reference": self.reference, "average": self.averages}
        for kind, some in kinds.items():
            for name, tensor in some.items():
                tensor.copy_(_placed_like(state[f"{kind}/{name}"], tensor))


def _trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in policy.named_parameters() if tensor.requires_grad}


def _placed_like(tensor: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor.detach().to(like.device), like.device_mesh, like.placements)
    return tensor


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()
