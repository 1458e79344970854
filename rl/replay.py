"""Labelled lab scenes mixed into every step, so that a policy that learns from scores does not forget what it knew.

    L_replay = mean over scenes, times and noise of the denoising error of the true x_0

It is the policy's own pretraining loss at weight `replay_weight` (rl/config.py), on scenes of `lab-train`, whose truth
pretraining held as well; wild images have none. In supervised terms it is experience replay against forgetting; in
those of RLHF, PPO-ptx (Ouyang et al., NeurIPS 2022, arXiv 2203.02155, eq. 2). Left out: pretraining's losses on joints,
which need a body.
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

from hmr.policy.parametrization import geometry_of
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Labelled
from rl.scorers.hmr_scorer import encoder_digest

__all__ = ["Replay", "replay_of"]

ENCODED_AT_ONCE = 64
EYES = "eyes"  # in the file's metadata


@dataclass(frozen=True, eq=False)
class Replay:
    """N labelled scenes, in the coordinates of the policy that will learn from them."""

    condition: Float[Tensor, "scenes channels"]
    x0: Float[Tensor, "scenes dim"]
    eyes: str | None = None  # `rl.scorers.hmr_scorer.encoder_digest` of the policy that saw them

    def __len__(self) -> int:
        return self.condition.shape[0]

    def draw(self, generators: Sequence[torch.Generator]) -> Int[Tensor, " batch"]:
        """One scene for each generator, by its row."""
        return torch.stack([torch.randint(len(self), (), generator=one) for one in generators])

    def to(self, device: torch.device) -> Replay:
        return Replay(self.condition.to(device), self.x0.to(device), self.eyes)

    def save(self, path: Path) -> None:
        """As safetensors, in one piece."""
        partial = path.with_suffix(".partial")
        told = {EYES: self.eyes} if self.eyes else None
        save_file({"condition": self.condition.contiguous(), "x0": self.x0.contiguous()}, partial, told)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Replay:
        """Raises FileNotFoundError if there is no such file."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such replay_file; rl.replay.Replay.save writes one")
        with safe_open(path, "pt") as file:
            eyes = (file.metadata() or {}).get(EYES)
        return Replay(**load_file(path), eyes=eyes)


@torch.no_grad()
def replay_of(policy: DiffusionPolicy, labelled: Sequence[Labelled]) -> Replay:
    """What the policy's own encoder sees of each scene, and the truth as seen through the true camera, which is what
    pretraining teaches (`hmr.pretraining.crop_cache.targets_of`).

    Raises ValueError without a scene.
    """
    if not labelled:
        raise ValueError("replay needs at least one labelled scene, none was given")
    batches = [
        labelled[start : start + ENCODED_AT_ONCE] for start in range(0, len(labelled), ENCODED_AT_ONCE)
    ]
    condition = [policy.encode([case.sample for case in batch]).condition.cpu() for batch in batches]
    x0 = [_true_x0(policy, batch).cpu() for batch in batches]
    return Replay(torch.cat(condition), torch.cat(x0), encoder_digest(policy))


def _true_x0(policy: DiffusionPolicy, labelled: Sequence[Labelled]) -> Float[Tensor, "batch dim"]:
    boxes = [policy.crop_box(case.sample.box) for case in labelled]
    geometry = geometry_of([case.truth.camera for case in labelled], boxes).to(policy.device)
    groups_of_one = [BodyParams.stack([case.truth.params]) for case in labelled]
    params = BodyParams.stack(groups_of_one).to(policy.device)
    channels = torch.zeros(len(labelled), 0, device=policy.device)  # x0 depends on the geometry alone
    return policy.to_x0(params, Features(channels, geometry))[:, 0]
