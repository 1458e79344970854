"""The settings of alignment by policy gradient, and their YAML file (configs/align_policy_gradient.yaml)."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass

from common.reading.yaml_fields import checked_fields, read_fields
from common.storage.files import PathLike
from rl.advantages import ADVANTAGE_TYPES, AdvantageSettings

__all__ = ["PolicyGradientConfig", "read_policy_gradient"]

AT_LEAST = {
    "updates": 1,
    "images_per_update": 1,
    "group_size": 2,  # scores are compared within a group
    "steps": 2,  # the last one adds no noise, so it has no likelihood
    "inner_epochs": 1,
    "minibatches": 1,
    "checkpoint_updates": 1,
    "kl_weight": 0,
    "min_group_std": 0,
}
ABOVE_ZERO = ("learning_rate", "max_grad_norm", "clip_epsilon", "advantage_clip")


@dataclass(frozen=True)
class PolicyGradientConfig:
    """One update samples `images_per_update` groups, has each scored once, and takes `inner_epochs` x `minibatches`
    optimizer steps on their states. Raises ValueError for a value outside its range."""

    updates: int = 60
    images_per_update: int = 48
    group_size: int = 12
    steps: int = 10  # of the chain
    eta: float = 1.0  # share of the noise of DDPM in each step; above 0 and at most 1
    inner_epochs: int = 2
    minibatches: int = 4  # into which the states of an update are divided
    clip_epsilon: float = 0.2  # PPO's
    kl_weight: float = 0.0  # of the divergence from the policy at the start, per step of the chain
    learning_rate: float = 1e-4  # of AdamW, constant
    max_grad_norm: float = 1.0
    train_estimate: bool = False  # the regression head learns too
    ema_decay: float = 0.95  # of the weights that are saved, per optimizer step
    advantage_type: str = "group"  # these three as in rl.config
    advantage_clip: float = 5.0
    min_group_std: float = 0.1
    checkpoint_updates: int = 1  # updates between two checkpoints, on a CPU

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta must be above 0 and at most 1, not {self.eta}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.minibatches > (states := self.images_per_update * (self.steps - 1)):
            raise ValueError(
                f"minibatches must be at most images_per_update x (steps - 1) = {states}, not {self.minibatches}"
            )
        if self.advantage_type not in ADVANTAGE_TYPES:
            raise ValueError(
                f"advantage_type is one of {', '.join(ADVANTAGE_TYPES)}, not {self.advantage_type!r}"
            )

    @property
    def critiques(self) -> int:
        """The number of groups that are scored."""
        return self.updates * self.images_per_update

    def advantage_settings(self) -> AdvantageSettings:
        return AdvantageSettings(self.advantage_type, self.advantage_clip, self.min_group_std)


def read_policy_gradient(path: PathLike) -> PolicyGradientConfig:
    """The settings in a YAML file; fields that it leaves out have their defaults. Raises FileNotFoundError, and
    ValueError for an unknown field and for a value of the wrong type or outside its range."""
    kinds = typing.get_type_hints(PolicyGradientConfig)
    names = [item.name for item in dataclasses.fields(PolicyGradientConfig)]
    fields = checked_fields(str(path), read_fields(path, names), {name: kinds[name] for name in names})
    try:
        return PolicyGradientConfig(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
