"""Pretraining: the policy learns to see and to pose on labelled `lab` scenes.

One pass of the encoder an image feeds everything: its own heads (keypoints, visibility, mask), the regression head
(the baseline, trained as long and on the same features), and the denoiser at several times at once.

| term          | what is compared                                              | weight                  |
|---------------|---------------------------------------------------------------|-------------------------|
| denoise       | v_theta and v_t, mean over K times (hmr.policy)               | `denoise`               |
| x0 joints     | joints of the predicted x_0, metres, weighted by abar_t       | `x0_joints`             |
| keypoints     | Laplace likelihood of the 2D joints inside the crop           | `keypoints`             |
| visible, mask | binary cross-entropy                                          | `visible`, `mask`       |
| regression    | smooth L1 on the vector, L1 on its joints                     | `regression`            |

Run by transformers.Trainer, so that bf16, resume, accumulation and several processes are its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.body import Body, load_body
from hmr.checkpoint import load_policy, save_compact
from hmr.data.crops import CropCache, CropDataset, make_crops
from hmr.data.recipe import RECIPES
from hmr.encoder import Seen
from hmr.parametrization import split
from hmr.policy import DiffusionPolicy, DiffusionPolicyConfig

__all__ = ["LossWeights", "PretrainConfig", "Pretraining", "joints_of", "pretrain", "read_config"]


@dataclass(frozen=True)
class LossWeights:
    denoise: float = 1.0
    x0_joints: float = 2.0
    keypoints: float = 0.3
    visible: float = 0.1
    mask: float = 0.3
    regression: float = 0.5


@dataclass(frozen=True)
class PretrainConfig:
    """One experiment; `configs/pretrain_tiny.yaml` is the shipped checkpoint's."""

    recipe: str = "lab"
    scenes: int = 40_000
    held_out: int = 1_000
    seed: int = 1
    times_per_image: int = 8
    min_std: float = 0.05  # of a standardised target, so that joints that hardly move do not amplify noise
    ema_decay: float = 0.999
    policy: dict[str, Any] = field(default_factory=dict)
    losses: LossWeights = field(default_factory=LossWeights)
    training: dict[str, Any] = field(default_factory=dict)  # transformers.TrainingArguments


def read_config(path: Path, **changes: Any) -> PretrainConfig:
    """Raises ValueError on an unknown key, with the allowed ones."""
    values = {**(yaml.safe_load(path.read_text()) or {}), **changes}
    allowed = {item.name for item in dataclasses.fields(PretrainConfig)}
    if unknown := set(values) - allowed:
        raise ValueError(f"{path}: unknown {sorted(unknown)}; allowed are {sorted(allowed)}")
    values["losses"] = LossWeights(**values.get("losses", {}))
    return PretrainConfig(**values)


def joints_of(vector: Float[Tensor, "*batch 157"], body: Body) -> Float[Tensor, "*batch 24 3"]:
    """Joints of raw vectors in metres, pelvis at the origin, camera axes."""
    rotations, betas, _ = split(vector)
    posed = body.joints_from_matrices(rotations, betas)
    return posed - posed[..., :1, :]


class Pretraining(nn.Module):
    """The policy and its losses as one module, the shape transformers.Trainer expects."""

    def __init__(self, policy: DiffusionPolicy, body: Body, config: PretrainConfig) -> None:
        super().__init__()
        self.policy, self.settings = policy, config
        self._body = [body]  # a list hides it from the state dict: the body is data, not weights
        self.averages: dict[str, float] = {}

    def forward(
        self,
        crops: UInt8[Tensor, "batch side side 3"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
        visible: Bool[Tensor, "batch 24"],
        mask: UInt8[Tensor, "batch mask mask"],
    ) -> dict[str, Tensor]:
        body, weights = self._body[0], self.settings.losses
        images = crops.permute(0, 3, 1, 2).float() / 255
        if self.training:
            images = _recolour(images)
        seen = self.policy.encoder(images)
        condition = self.policy.condition(seen, geometry)
        joints = joints_of(vector, body)
        terms = _seeing_terms(seen, keypoints, visible, mask)
        terms |= self._regression_terms(condition, vector, joints, body)
        terms |= self._diffusion_terms(condition, vector, joints, body)
        named = dataclasses.asdict(weights)
        loss = torch.stack([named[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{f"{name}_loss": term.detach() for name, term in terms.items()}}

    def _regression_terms(
        self, condition: Tensor, vector: Tensor, joints: Float[Tensor, "batch 24 3"], body: Body
    ) -> dict[str, Tensor]:
        policy = self.policy
        guess = policy.regressor(condition).float()
        standard = (vector - policy.mean) / policy.std
        error_m = (joints_of(guess * policy.std + policy.mean, body) - joints).abs().mean()
        return {"regression": F.smooth_l1_loss(guess, standard) + 5.0 * error_m}

    def _diffusion_terms(
        self, condition: Tensor, vector: Tensor, joints: Float[Tensor, "batch 24 3"], body: Body
    ) -> dict[str, Tensor]:
        policy, times = self.policy, self.settings.times_per_image
        batch = len(vector)
        x0 = ((vector - policy.mean) / policy.std)[:, None]
        strata = torch.arange(times, device=vector.device) + torch.rand(batch, times, device=vector.device)
        timesteps = (strata / times * policy.config.num_train_timesteps).long()
        noise = torch.randn(batch, times, x0.shape[-1], device=vector.device)
        noisy, target = policy.noisy_and_target(x0, timesteps, noise)
        predicted = policy.denoiser(noisy, timesteps, condition)[:, 0].float()
        abar = policy.scheduler.alphas_cumprod.to(vector.device)[timesteps][..., None]
        clean = abar.sqrt() * noisy[:, 0] - (1 - abar).sqrt() * predicted
        error_m = (
            (joints_of(clean * policy.std + policy.mean, body) - joints[:, None]).abs().mean(dim=(-1, -2))
        )
        return {
            "denoise": (predicted - target[:, 0]).square().mean(),
            "x0_joints": (abar[..., 0].clamp_min(0.05) * error_m).mean(),
        }


def _seeing_terms(
    seen: Seen,
    keypoints: Float[Tensor, "batch 24 2"],
    visible: Bool[Tensor, "batch 24"],
    mask: UInt8[Tensor, "batch mask mask"],
) -> dict[str, Tensor]:
    inside = (keypoints.abs() <= 1).all(dim=-1).float()
    # a Laplace of standard deviation sigma has scale sigma / sqrt(2) (a coordinate)
    scale = seen.log_sigma.exp() / 2**0.5
    distance = (seen.keypoints - keypoints).abs().sum(dim=-1)
    likelihood = distance / scale + 2 * scale.log() + distance  # the last keeps a floor under the gradient
    return {
        "keypoints": (likelihood * inside).sum() / inside.sum().clamp_min(1),
        "visible": F.binary_cross_entropy_with_logits(seen.visible_logit, visible.float()),
        "mask": F.binary_cross_entropy_with_logits(seen.mask_logit, mask.float() / 255),
    }


def _recolour(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Gain, cast and grain of other cameras; the scenes bring their own, this is on top."""
    size = (len(images), 1, 1, 1)
    gain = 1 + 0.2 * torch.randn(size, device=images.device)
    cast = 1 + 0.08 * torch.randn(len(images), 3, 1, 1, device=images.device)
    grain = 0.03 * torch.rand(size, device=images.device) * torch.randn_like(images)
    return (images * gain * cast + grain).clamp(0, 1)


def pretrain(
    config: PretrainConfig,
    out: Path,
    cache: Path,
    workers: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> DiffusionPolicy:
    """Make the crops, train, and leave the EMA weights in `out`: config.json, model.safetensors (float16), training.json.

    Resumes from the newest checkpoint under `out`/trainer.
    """
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    from hmr.ema import EmaCallback

    body = load_body()
    policy = DiffusionPolicy(DiffusionPolicyConfig(**config.policy))
    train_set, test_set = (
        _crops(config, cache, policy, seed, count, workers, progress)
        for seed, count in ((config.seed, config.scenes), (config.seed + 1_000_000, config.held_out))
    )
    policy.fit_to(body, *train_set.statistics(config.min_std))
    module = Pretraining(policy, body, config)
    ema = EmaCallback(module, config.ema_decay)
    trainer_folder = out / "trainer"
    arguments = TrainingArguments(
        output_dir=str(trainer_folder),
        seed=config.seed,
        remove_unused_columns=False,
        label_names=["vector"],  # tells Trainer that an evaluation has a loss
        prediction_loss_only=True,
        **config.training,
    )
    trainer = Trainer(module, arguments, train_dataset=train_set, eval_dataset=test_set, callbacks=[ema])
    last = get_last_checkpoint(str(trainer_folder)) if trainer_folder.exists() else None
    trainer.train(resume_from_checkpoint=last)
    ema.finish()
    figures = trainer.evaluate()
    save_compact(policy, out)
    history = {"config": dataclasses.asdict(config), "held_out": figures, "log": trainer.state.log_history}
    (out / "training.json").write_text(json.dumps(history, indent=1))
    return load_policy(out)


def _crops(
    config: PretrainConfig,
    cache: Path,
    policy: DiffusionPolicy,
    seed: int,
    count: int,
    workers: int,
    progress: Callable[[str, int, int], None] | None,
) -> CropDataset:
    wanted = CropCache(RECIPES[config.recipe], seed, count, policy.config.crop_size, policy.config.crop_scale)
    report = (lambda done: progress("drawing scenes", done, count)) if progress else None
    return CropDataset(make_crops(wanted, cache, workers, report))
