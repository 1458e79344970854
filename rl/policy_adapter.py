"""`PolicyAdapter`: three methods by which any diffusion policy can be used for group building, critics and the trainer.

| method            | result                                                                                        |
|-------------------|-----------------------------------------------------------------------------------------------|
| `features`        | the condition of the denoiser for an image, one vector; computed once and stored in the row   |
| `sample`          | hypotheses in two forms: x_0 in the diffused coordinates, and the form that a critic receives |
| `denoising_error` | the squared error of the prediction at (x_t, t), mean over parameters: L_theta of `rl.losses` |

The form that a critic receives determines which critics can score. SMPL bodies (`Hypotheses`) suit every critic here,
including the agent; a tensor, such as joint positions, suits reward functions written for it (`rl.scorers.rewards`).
The trainer reads only the features, x_0 and the scores. The interface is limited to diffusion, because the losses need
an error that estimates the log-likelihood ratio at a given time and noise.

`DiffusionPolicyAdapter` wraps our own policy as an example. It has no other use, because `DiffusionPolicy` is accepted
directly; tests/contracts/test_policy_adapter.py aligns it both ways to the same weights. Left out: the spread callback
and the spread penalty, which need more than an error (`rl.spread`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PretrainedConfig

from common.storage.files import PathLike
from common.storage.fingerprint import weights_digest
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Hypotheses, Sample
from rl.types import bodies_of_row, body_columns, checked_scores, flattened

__all__ = ["AdapterGroup", "DiffusionPolicyAdapter", "Draws", "PolicyAdapter"]

WEIGHTS = "adapted.safetensors"
GEOMETRY = 8  # numbers of the position of a crop (hmr.policy.parametrization.geometry_of)


@dataclass(frozen=True)
class Draws:
    """A group of G hypotheses for each of B images."""

    x0: Float[Tensor, "batch group dim"]
    shown: Sequence[Hypotheses] | Float[Tensor, "batch group *shape"]  # what critics receive, by image


@dataclass(frozen=True)
class AdapterGroup:
    """A group of a policy behind an adapter; otherwise as `rl.types.PreferenceGroup`."""

    sample_id: str
    image_sha256: str
    hypotheses: Hypotheses | Float[Tensor, "group *shape"]  # what critics receive
    condition: Float[Tensor, " channels"]  # the adapter's features
    x0: Float[Tensor, "group dim"]
    scores: tuple[float | None, ...]
    scorer: str
    uses_truth: bool
    policy_digest: str

    def __post_init__(self) -> None:
        checked_scores(self.scorer, self.scores, len(self.hypotheses))

    def to_row(self) -> dict[str, Any]:
        """One Parquet row; bodies in the columns of `PreferenceGroup`, a tensor flattened with its shape."""
        if isinstance(self.hypotheses, Hypotheses):
            shown = body_columns(self.hypotheses)
        else:
            shown = {"shown": flattened(self.hypotheses), "shown_shape": list(self.hypotheses.shape)}
        return {
            "sample_id": self.sample_id,
            "image_sha256": self.image_sha256,
            **shown,
            "condition": flattened(self.condition),
            "x0": flattened(self.x0),
            "scores": list(self.scores),
            "scorer": self.scorer,
            "uses_truth": self.uses_truth,
            "policy_digest": self.policy_digest,
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> AdapterGroup:
        """The inverse of `to_row`."""
        shown = (
            torch.tensor(row["shown"]).reshape(row["shown_shape"]) if "shown" in row else bodies_of_row(row)
        )
        unchanged = ("sample_id", "image_sha256", "scorer", "uses_truth", "policy_digest")
        return AdapterGroup(
            hypotheses=shown,
            condition=torch.tensor(row["condition"]),
            x0=torch.tensor(row["x0"]).reshape(len(row["scores"]), -1),
            scores=tuple(row["scores"]),
            **{name: row[name] for name in unchanged},
        )


class PolicyAdapter(nn.Module, ABC):
    """Base class: implement the three methods in the module that holds the weights or in a module around it.

    `GroupPreferenceConfig.trainable` names the submodule to train. Times are integers from 0 to
    `num_train_timesteps` - 1.
    """

    def __init__(self, num_train_timesteps: int) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.config.num_train_timesteps = num_train_timesteps  # pyright: ignore[reportAttributeAccessIssue]

    @abstractmethod
    def features(self, samples: Sequence[Sample]) -> Float[Tensor, "batch channels"]:
        """One vector per image, without gradient. Alignment must not train the weights that it depends on."""

    @abstractmethod
    def sample(
        self,
        features: Float[Tensor, "batch channels"],
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> Draws:
        """`num_samples` hypotheses per image, with randomness from `generator` only; `noise_scale` multiplies the
        starting noise."""

    @abstractmethod
    def denoising_error(
        self,
        features: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        """The error of each hypothesis at each time of its image, float32; a group shares its times and its noise."""

    # -- derived methods ----------------------------------------------------------------------------------

    def forward(
        self,
        condition: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        return self.denoising_error(condition, x0, timesteps, noise)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def digest(self) -> str:
        """Content hash of the weights, stored in every row that the policy sampled."""
        return weights_digest(self.state_dict())

    def save_pretrained(self, folder: PathLike) -> None:
        """Save the weights as safetensors."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(self, str(Path(folder, WEIGHTS)))

    def load_weights(self, folder: PathLike) -> None:
        """Load, in place, the weights that `save_pretrained` wrote."""
        load_model(self, Path(folder, WEIGHTS))


class DiffusionPolicyAdapter(PolicyAdapter):
    """Our own policy behind the interface; `trainable` is then "policy.denoiser"."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__(policy.config.num_train_timesteps)
        self.policy = policy

    def features(self, samples: Sequence[Sample]) -> Float[Tensor, "batch channels"]:
        features = self.policy.encode(samples)
        return torch.cat([features.condition, features.geometry], dim=-1)

    def sample(
        self,
        features: Float[Tensor, "batch channels"],
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> Draws:
        own = Features(features[:, :-GEOMETRY], features[:, -GEOMETRY:])
        hypotheses = self.policy.sample(own, num_samples, generator, noise_scale)
        params = [group.params for group in hypotheses]
        return Draws(self.policy.to_x0(BodyParams.stack(params), own), hypotheses)

    def denoising_error(
        self,
        features: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        return self.policy(features[:, :-GEOMETRY], x0, timesteps, noise)
