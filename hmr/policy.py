"""The diffusion policy: one photograph of a person -> as many body hypotheses as asked for.

Follows ScoreHypo (CVPR 2024) and ADHMR (ICML 2025, arXiv 2505.10250) in the large: a deterministic encoder, a
conditional denoiser, DDIM in a few steps, hypothesis 0 from zero noise. It differs where their papers or our
measurements advise it: rotations, shape and camera are all diffused (theirs regresses the last two); the prediction
target is v on a schedule whose terminal signal-to-noise ratio is zero (Lin et al., WACV 2024, arXiv 2305.08891), since
epsilon at a high terminal ratio samples from the wrong prior.

| variable          | symbol        | equation                                                   |
|-------------------|---------------|------------------------------------------------------------|
| x0                | x_0           | parametrisation vector, standardised by pretraining's data |
| noise             | eps           | N(0, I)                                                    |
| noisy             | x_t           | sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                    |
| target            | v_t           | sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                    |
| denoising error   | L(x_t, eps)   | mean over the parameters of (v_theta - v_t)^2              |
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hmr.body import Body
from hmr.denoiser import Denoiser
from hmr.encoder import CropEncoder, Seen
from hmr.parametrization import (
    VECTOR_SIZE,
    box_features,
    camera_of,
    geometry_of,
    params_from_vector,
    vector_from_params,
)
from hmr.render.overlay import crop_image
from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams, Box, Hypotheses, Sample

__all__ = ["DiffusionPolicy", "DiffusionPolicyConfig", "Features"]


class DiffusionPolicyConfig(PretrainedConfig):
    """Everything a checkpoint needs to be built again; chosen values live in configs/."""

    model_type = "meshcritic_diffusion_policy"

    def __init__(
        self,
        crop_size: int = 128,
        crop_scale: float = 1.2,
        encoder_widths: Sequence[int] = (64, 128, 256),
        width: int = 384,
        depth: int = 4,
        num_train_timesteps: int = 1000,
        num_inference_steps: int = 8,
        **kwargs: Any,
    ) -> None:
        self.crop_size = crop_size
        self.crop_scale = crop_scale
        self.encoder_widths = list(encoder_widths)
        self.width = width
        self.depth = depth
        self.num_train_timesteps = num_train_timesteps
        self.num_inference_steps = num_inference_steps
        super().__init__(**kwargs)


@dataclass(frozen=True)
class Features:
    """What the policy keeps of a batch of images: the condition of the denoiser and where each crop lay."""

    condition: Float[Tensor, "batch channels"]
    geometry: Float[Tensor, "batch 8"]  # see hmr.parametrization.geometry_of

    def __len__(self) -> int:
        return self.condition.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Features:
        return Features(self.condition[rows], self.geometry[rows])


class DiffusionPolicy(PreTrainedModel):
    """`from_pretrained(folder)` reads safetensors and a JSON config, never a pickle."""

    config_class = DiffusionPolicyConfig
    base_model_prefix = ""
    main_input_name = "condition"
    config: DiffusionPolicyConfig
    mean: Tensor
    std: Tensor
    pelvis_template: Tensor
    pelvis_shapedirs: Tensor

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__(config)
        fine, middle, coarse = config.encoder_widths
        self.encoder = CropEncoder((fine, middle, coarse))
        seen_size = self.encoder.vector_size + 3
        self.denoiser = Denoiser(VECTOR_SIZE, seen_size + VECTOR_SIZE, config.width, config.depth)
        self.regressor = nn.Sequential(
            nn.LayerNorm(seen_size),
            nn.Linear(seen_size, 2 * config.width),
            nn.SiLU(),
            nn.Linear(2 * config.width, 2 * config.width),
            nn.SiLU(),
            nn.Linear(2 * config.width, VECTOR_SIZE),
        )
        self.register_buffer("mean", torch.zeros(VECTOR_SIZE))
        self.register_buffer("std", torch.ones(VECTOR_SIZE))
        self.register_buffer("pelvis_template", torch.zeros(3))
        self.register_buffer("pelvis_shapedirs", torch.zeros(3, NUM_BETAS))
        self.post_init()

    @functools.cached_property
    def scheduler(self) -> DDIMScheduler:
        """Made when first asked for: `from_pretrained` builds the module where tensors have no data yet."""
        return self.new_scheduler()

    def new_scheduler(self) -> DDIMScheduler:
        return DDIMScheduler(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    def fit_to(self, body: Body, mean: Float[Tensor, "157"], std: Float[Tensor, "157"]) -> None:
        """Before pretraining: remember the body's rest pelvis and the statistics of the training targets."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.pelvis_template.copy_(body.joint_template[0])
        self.pelvis_shapedirs.copy_(body.joint_shapedirs[0])

    # -- seeing ----------------------------------------------------------------------------------------------

    def crop_box(self, box: Box) -> Box:
        return box.square(self.config.crop_scale)

    def crops(self, samples: Sequence[Sample]) -> Float[Tensor, "batch 3 side side"]:
        """The squares that the encoder sees, RGB from 0 to 1."""
        size = self.config.crop_size
        pixels = np.stack([crop_image(s.image, self.crop_box(s.box), size) for s in samples])
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def see(self, samples: Sequence[Sample]) -> Seen:
        """The encoder's heads, always in evaluation mode: a look changes nothing."""
        return self.encoder.eval()(self.crops(samples))

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample]) -> Features:
        """One pass of the encoder an image, however many hypotheses are then sampled."""
        boxes = [self.crop_box(sample.box) for sample in samples]
        geometry = geometry_of([sample.camera for sample in samples], boxes).to(self.device)
        return Features(self.condition(self.seen_features(self.see(samples), geometry)), geometry)

    @staticmethod
    def seen_features(seen: Seen, geometry: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch features"]:
        """What the encoder saw, and where in the view it looked."""
        return torch.cat([seen.vector, box_features(geometry)], dim=-1)

    def condition(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch channels"]:
        """What the denoiser is told: the seen features and the regression head's guess of x0, which it cannot move."""
        return torch.cat([features, self.regressor(features).detach().float()], dim=-1)

    # -- posing ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> list[Hypotheses]:
        """M hypotheses an image, the first from zero noise.

        `noise_scale` multiplies the starting noise: below 1 hypotheses huddle, above 1 they spread.
        """
        shape = (len(features), num_samples, VECTOR_SIZE)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(self.device)
        noise[:, 0] = 0
        vectors = self._denoise(noise * noise_scale, features.condition)
        params = self.from_x0(vectors, features)
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    @torch.no_grad()
    def regress(self, features: Features) -> list[Hypotheses]:
        """The regression head's single answer (batch shape (1,)): the baseline that diffusion must beat."""
        vectors = features.condition[:, None, -VECTOR_SIZE:]
        params = self.from_x0(vectors, features)
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    def _denoise(
        self, noisy: Float[Tensor, "batch group dim"], condition: Float[Tensor, "batch channels"]
    ) -> Float[Tensor, "batch group dim"]:
        scheduler = self.new_scheduler()  # its own: stepping has state, and an agent's threads share a policy
        scheduler.set_timesteps(self.config.num_inference_steps, device=self.device)
        for timestep in scheduler.timesteps.tolist():
            times = torch.full((noisy.shape[0], 1), timestep, device=self.device)
            prediction = self.denoiser(noisy[:, :, None], times, condition)[:, :, 0]
            noisy = scheduler.step(prediction, timestep, noisy, return_dict=False)[0]
        return noisy

    # -- the diffusion's own coordinates ---------------------------------------------------------------------

    def rest_pelvis_m(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 3"]:
        return self.pelvis_template + betas @ self.pelvis_shapedirs.T

    def to_x0(self, params: BodyParams, features: Features) -> Float[Tensor, "batch group dim"]:
        """Standardised targets of bodies with batch shape (B, G), B images and G hypotheses each."""
        pelvis_cam_m = params.transl + self.rest_pelvis_m(params.betas)
        vectors = vector_from_params(params, pelvis_cam_m, features.geometry[:, None])
        return (vectors - self.mean) / self.std

    def from_x0(self, x0: Float[Tensor, "batch group dim"], features: Features) -> BodyParams:
        vectors = x0 * self.std + self.mean
        betas = vectors[..., NUM_JOINTS * 6 : NUM_JOINTS * 6 + NUM_BETAS]
        return params_from_vector(vectors, self.rest_pelvis_m(betas), features.geometry[:, None])

    def noisy_and_target(
        self,
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> tuple[Float[Tensor, "batch group steps dim"], Float[Tensor, "batch group steps dim"]]:
        """x_t and v_t; the whole group of an image shares its times and its noise."""
        alphas_cumprod = self.scheduler.alphas_cumprod.to(x0.device)[timesteps]
        signal = alphas_cumprod.sqrt()[:, None, :, None]
        spread = (1 - alphas_cumprod).sqrt()[:, None, :, None]
        clean, noise = x0[:, :, None], noise[:, None]
        return signal * clean + spread * noise, signal * noise - spread * clean

    def forward(
        self,
        condition: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        """The denoising error of each hypothesis at each time, float32, averaged over the parameters."""
        noisy, target = self.noisy_and_target(x0, timesteps, noise)
        prediction = self.denoiser(noisy, timesteps, condition)
        return (prediction.float() - target.float()).square().mean(dim=-1)

    def digest(self) -> str:
        """Content hash of the weights: names the policy in every figure it made."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.detach().cpu().numpy().tobytes())
        return state.hexdigest()[:16]
