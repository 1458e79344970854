"""Any diffusion policy, told in three methods, so that groups, critics and trainer can work on it.

| method            | what group building and training ask of it                                                     |
|-------------------|------------------------------------------------------------------------------------------------|
| `features`        | what its denoiser is told of an image, one vector; made once, kept in the row                   |
| `sample`          | hypotheses twice: x_0 in the coordinates that are diffused, and what a critic is shown of them   |
| `denoising_error` | the squared error of its prediction at (x_t, t), mean over parameters: L_theta of `rl.losses`   |

What is shown decides who can judge. SMPL bodies (`Hypotheses`) are for every critic here, the agent included; a tensor,
such as joint positions, is for reward functions that know what it means (`rl.scorers.rewards`). The trainer sees neither: it
reads the features, x_0 and the scores. That is the whole seam, and it holds for diffusion alone: an error that
estimates the log-likelihood ratio at a given time and noise is what the losses are about.

`DiffusionPolicyAdapter` is our own policy told this way, and the example to read. Nothing is gained by using it, for
`DiffusionPolicy` is taken as it is; tests/contracts/test_policy_adapter.py aligns it both ways to the same weights.
Left out: watching the spread while training, and a floor under it, which need more than an error (`rl.spread`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PretrainedConfig

from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Hypotheses, Sample
from rl.types import bodies_of_row, body_columns

__all__ = ["AdapterGroup", "DiffusionPolicyAdapter", "Draws", "PolicyAdapter"]

WEIGHTS = "adapted.safetensors"
GEOMETRY = 8  # numbers that say where a crop lay (hmr.policy.parametrization.geometry_of)


@dataclass(frozen=True)
class Draws:
    """A group of G hypotheses for each of B images."""

    x0: Float[Tensor, "batch group dim"]
    shown: Sequence[Hypotheses] | Float[Tensor, "batch group *shape"]  # by image


@dataclass(frozen=True)
class AdapterGroup:
    """One image with its group, of a policy behind an adapter; otherwise as `rl.types.PreferenceGroup`."""

    sample_id: str
    image_sha256: str
    hypotheses: Hypotheses | Float[Tensor, "group *shape"]  # what critics are shown
    condition: Float[Tensor, " channels"]  # the adapter's features
    x0: Float[Tensor, "group dim"]
    scores: tuple[float | None, ...]
    scorer: str
    uses_truth: bool
    policy_digest: str

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.hypotheses):
            raise ValueError(
                f"{self.scorer!r} gave {len(self.scores)} scores for the {len(self.hypotheses)} hypotheses "
                f"of {self.sample_id!r}; it must give one each"
            )

    def to_row(self) -> dict[str, Any]:
        """One Parquet row; bodies in the columns of every other set, a tensor flattened and with its shape."""
        if isinstance(self.hypotheses, Hypotheses):
            shown = body_columns(self.hypotheses)
        else:
            shown = {"shown": _flat(self.hypotheses), "shown_shape": list(self.hypotheses.shape)}
        return {
            "sample_id": self.sample_id,
            "image_sha256": self.image_sha256,
            **shown,
            "condition": _flat(self.condition),
            "x0": _flat(self.x0),
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
        told = {
            name: row[name] for name in ("sample_id", "image_sha256", "scorer", "uses_truth", "policy_digest")
        }
        return AdapterGroup(
            hypotheses=shown,
            condition=torch.tensor(row["condition"]),
            x0=torch.tensor(row["x0"]).reshape(len(row["scores"]), -1),
            scores=tuple(row["scores"]),
            **told,
        )


def _flat(tensor: Tensor) -> Float[np.ndarray, " length"]:
    return tensor.detach().cpu().float().flatten().numpy()


class PolicyAdapter(nn.Module, ABC):
    """Subclass it with the three methods, in the module that holds the weights or in one around it.

    `GroupPreferenceConfig.trainable` names the submodule that is to learn. `num_train_timesteps` is the length of the
    diffusion: times are whole numbers from 0 to below it.
    """

    def __init__(self, num_train_timesteps: int) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.config.num_train_timesteps = num_train_timesteps  # pyright: ignore[reportAttributeAccessIssue]

    @abstractmethod
    def features(self, samples: Sequence[Sample]) -> Float[Tensor, "batch channels"]:
        """One vector an image, without gradient; what it depends on is frozen in alignment."""

    @abstractmethod
    def sample(
        self,
        features: Float[Tensor, "batch channels"],
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> Draws:
        """`num_samples` hypotheses an image, drawn from `generator` alone; `noise_scale` multiplies starting noise."""

    @abstractmethod
    def denoising_error(
        self,
        features: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        """Of each hypothesis at each time of its image, float32; a group shares its times and its noise."""

    # -- what follows from them ------------------------------------------------------------------------------

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
        """Content hash of the weights: names the policy in every row it made."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            state.update(name.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(flat.view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
        return state.hexdigest()[:16]

    def save_pretrained(self, folder: Path | str) -> None:
        """The weights, as safetensors; who takes them up again makes the module first."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(self, str(Path(folder, WEIGHTS)))

    def load_weights(self, folder: Path | str) -> None:
        """Takes up, in place, what `save_pretrained` left in a folder."""
        load_model(self, Path(folder, WEIGHTS))


class DiffusionPolicyAdapter(PolicyAdapter):
    """Our policy by the three methods; `trainable` is then "policy.denoiser"."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__(policy.config.num_train_timesteps)
        self.policy = policy

    def features(self, samples: Sequence[Sample]) -> Float[Tensor, "batch channels"]:
        seen = self.policy.encode(samples)
        return torch.cat([seen.condition, seen.geometry], dim=-1)

    def sample(
        self,
        features: Float[Tensor, "batch channels"],
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> Draws:
        seen = Features(features[:, :-GEOMETRY], features[:, -GEOMETRY:])
        hypotheses = self.policy.sample(seen, num_samples, generator, noise_scale)
        params = [group.params for group in hypotheses]
        return Draws(self.policy.to_x0(BodyParams.stack(params), seen), hypotheses)

    def denoising_error(
        self,
        features: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        return self.policy(features[:, :-GEOMETRY], x0, timesteps, noise)
