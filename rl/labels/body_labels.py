"""Bodies to imitate: for each image the condition of a policy and one body, in the policy's coordinates.

| made by                    | bodies                                             |
|----------------------------|----------------------------------------------------|
| `true_labels`              | the truth of labelled scenes                       |
| `rl.labels.pseudo_labels`  | averaged groups, fits to keypoints, a 3D reading   |

Two losses use them: alignment imitates them in place of scored groups (`rl.imitation`), or replays labelled scenes
beside its groups against forgetting, with weight `replay_weight` (rl/config.py):

    L_replay = mean over scenes, times and noise of the denoising error of x_0

In RLHF the latter is called PPO-ptx (Ouyang et al., NeurIPS 2022, arXiv 2203.02155, eq. 2). Left out: the pretraining
losses on joints, which need a body model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.storage.files import PathLike, atomic_path
from hmr.policy.parametrization import geometry_of
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Labelled

__all__ = ["BodyLabels", "true_labels"]

BATCH_SIZE = 64
ESTIMATE_KEY = "initial_estimate"  # in the metadata of the file


@dataclass(frozen=True, eq=False)
class BodyLabels:
    """N images with a body each, in the coordinates of a policy."""

    condition: Float[Tensor, "images channels"]
    x0: Float[Tensor, "images dim"]
    estimate_digest: str | None = (
        None  # `DiffusionPolicy.initial_estimate_digest` of the policy that encoded them
    )

    def __len__(self) -> int:
        return self.condition.shape[0]

    def draw(self, generators: Sequence[torch.Generator]) -> Int[Tensor, " batch"]:
        """The row of one random image per generator."""
        return torch.stack([torch.randint(len(self), (), generator=generator) for generator in generators])

    def to(self, device: torch.device) -> BodyLabels:
        return BodyLabels(self.condition.to(device), self.x0.to(device), self.estimate_digest)

    def save(self, path: PathLike) -> None:
        """As a safetensors file."""
        metadata = {ESTIMATE_KEY: self.estimate_digest} if self.estimate_digest else None
        tensors = {"condition": self.condition.contiguous(), "x0": self.x0.contiguous()}
        with atomic_path(path) as partial:
            save_file(tensors, partial, metadata)

    @staticmethod
    def load(path: PathLike) -> BodyLabels:
        """Raises FileNotFoundError if there is no such file."""
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path}: there are no labels here; rl.labels.body_labels.BodyLabels.save writes such a file"
            )
        with safe_open(path, "pt") as file:
            estimate_digest = (file.metadata() or {}).get(ESTIMATE_KEY)
        return BodyLabels(**load_file(path), estimate_digest=estimate_digest)


@torch.no_grad()
def true_labels(policy: DiffusionPolicy, labelled: Sequence[Labelled]) -> BodyLabels:
    """The condition of each scene from the detector of the policy, and its true x_0 under the true camera, which is
    also the target of pretraining (`hmr.pretraining.simulation`). Raises ValueError without a scene.
    """
    if not labelled:
        raise ValueError("labels need at least one labelled scene, none was given")
    batches = [labelled[start : start + BATCH_SIZE] for start in range(0, len(labelled), BATCH_SIZE)]
    condition = [policy.encode([case.sample for case in batch]).condition.cpu() for batch in batches]
    x0 = [_true_x0(policy, batch).cpu() for batch in batches]
    return BodyLabels(torch.cat(condition), torch.cat(x0), policy.initial_estimate_digest())


def _true_x0(policy: DiffusionPolicy, labelled: Sequence[Labelled]) -> Float[Tensor, "batch dim"]:
    boxes = [policy.crop_box(case.sample.box) for case in labelled]
    geometry = geometry_of([case.truth.camera for case in labelled], boxes).to(policy.device)
    groups_of_one = [BodyParams.stack([case.truth.params]) for case in labelled]
    params = BodyParams.stack(groups_of_one).to(policy.device)
    condition = torch.zeros(len(labelled), 0, device=policy.device)  # x_0 depends on the geometry only
    return policy.to_x0(params, Features(condition, geometry))[:, 0]
