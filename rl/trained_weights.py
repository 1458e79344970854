"""What is trained of a policy, and three copies of those weights: the live ones, the reference (their values at the
start), and an average (EMA).

The reference is not a second model. Its weights are swapped with the live ones for a forward pass, and the average is
swapped in for an evaluation. A swap copies nothing unless FSDP has sharded the weights, which also works because FSDP
gathers them again in each forward pass. A forward pass under swapped weights must run before the one whose gradients
are taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from hmr.policy.policy import DiffusionPolicy
from rl.config import GroupPreferenceConfig

__all__ = ["TrainedWeights", "freeze_all_but"]


class TrainedWeights:
    """The three copies of every parameter of `policy` that requires a gradient, by name."""

    def __init__(self, policy: nn.Module, ema_decay: float) -> None:
        self.policy, self.decay = policy, ema_decay
        self.live = _trainable(policy)
        self.reference = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.ema = EMAModel(self.live.values(), decay=ema_decay, foreach=True)

    def sync_parameters(self) -> None:
        """If FSDP has replaced the parameters by shards, use those and shard the other copies in the same way."""
        live = _trainable(self.policy)
        if all(live[name] is tensor for name, tensor in self.live.items()):
            return
        averages = self.averages
        self.live = live
        self.reference = {name: _shard_like(self.reference[name], live[name]) for name in live}
        self.ema = EMAModel(live.values(), decay=self.decay, foreach=True)
        self.ema.shadow_params = [_shard_like(averages[name], live[name]) for name in live]

    @property
    def averages(self) -> dict[str, Tensor]:
        return dict(zip(self.live, self.ema.shadow_params, strict=True))

    def step(self) -> None:
        """Update the average; call it once per optimizer step."""
        self.ema.step(self.live.values())

    @torch.no_grad()
    def copy_average_to_policy(self) -> None:
        for name, average in self.averages.items():
            self.live[name].copy_(average)

    def reset_average(self) -> None:
        """Set the average to the live weights."""
        self.ema.shadow_params = [tensor.detach().clone() for tensor in self.live.values()]

    def as_reference(self) -> contextlib.AbstractContextManager[None]:
        return self._swapped(self.reference.values())

    def as_average(self) -> contextlib.AbstractContextManager[None]:
        return self._swapped(self.ema.shadow_params)

    @contextlib.contextmanager
    def _swapped(self, others: Iterable[Tensor]) -> Iterator[None]:
        pairs = list(zip(self.live.values(), others, strict=True))
        self._swap(pairs)
        try:
            yield
        finally:
            self._swap(pairs)

    @torch.no_grad()
    def _swap(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        for live, other in pairs:
            if isinstance(live, DTensor):  # FSDP gathers from a fixed buffer, so the values must be copied
                previous = live.detach().clone()
                live.copy_(other)
                other.copy_(previous)
            else:
                live.data, other.data = other.data, live.data
        for module in self.policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # otherwise the next pass uses the weights gathered before

    def state_dict(self) -> dict[str, Tensor]:
        """All three copies, unsharded. Every process must call this, because shards are gathered."""
        return {name: _full_tensor(tensor) for name, tensor in self._named_tensors()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self._named_tensors():
            tensor.copy_(_shard_like(state[name], tensor))

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for kind, tensors in (("live", self.live), ("reference", self.reference), ("average", self.averages)):
            yield from ((f"{kind}/{name}", tensor) for name, tensor in tensors.items())


def _trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    return {name: tensor for name, tensor in policy.named_parameters() if tensor.requires_grad}


def _shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor.detach().to(like.device), like.device_mesh, like.placements)
    return tensor


def _full_tensor(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().contiguous()


def _check_trainable(policy: nn.Module, trainable: str) -> None:
    """Raises ValueError unless `trainable` names a submodule that the loss depends on. Groups hold the detections and
    the initial estimates, so the denoiser is the only such part of a `DiffusionPolicy`."""
    names = [name for name, _ in policy.named_modules() if name]
    if isinstance(policy, DiffusionPolicy):
        names = [name for name in names if name.partition(".")[0] == "denoiser"]
    if trainable not in names:
        raise ValueError(
            f"trainable must name a submodule of the policy that learns, such as {names[:5]}, not {trainable!r}"
        )


def freeze_all_but(policy: nn.Module, args: GroupPreferenceConfig) -> list[Any]:
    """Leaves gradients only to the trained submodules, or to LoRA adapters on them, which are returned."""
    _check_trainable(policy, args.trainable)
    policy.requires_grad_(False)
    trained = [policy.get_submodule(args.trainable)]
    if args.train_estimate:
        trained.append(cast(DiffusionPolicy, policy).regressor)
    if args.lora_rank:
        return [_add_adapters(module, args.lora_rank, args.seed) for module in trained]
    for module in trained:
        module.requires_grad_(True)
    return []


def _add_adapters(module: nn.Module, rank: int, seed: int) -> Any:
    """A peft `LoraModel` on every linear layer of the module, in place."""
    from peft import LoraConfig, LoraModel

    linear = [name for name, layer in module.named_modules() if name and isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("LoRA adapts linear layers inside the trained submodule, and there are none")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed)
        return LoraModel(module, {"default": config}, "default")
