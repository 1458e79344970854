"""The diffusion policy: one photograph of a person -> as many body hypotheses as asked for.

Follows ScoreHypo (CVPR 2024) and ADHMR (ICML 2025, arXiv 2505.10250) in the large: a deterministic encoder, a
conditional denoiser, a solver in a few steps, hypothesis 0 from zero noise. It differs where their papers or our
measurements advise it: rotations, shape and camera are all diffused (theirs regresses the last two); the prediction
target is v on a schedule whose terminal signal-to-noise ratio is zero (Lin et al., WACV 2024, arXiv 2305.08891), since
epsilon at a high terminal ratio samples from the wrong prior.

| variable          | symbol        | equation                                                   |
|-------------------|---------------|------------------------------------------------------------|
| x0                | x_0           | parametrisation vector, standardised by pretraining's data |
| noise             | eps           | N(0, I)                                                    |
| noisy             | x_t           | sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                    |
| target            | v_t           | sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                    |
| guess             | g             | the regression head's x_0, part of the condition           |
| guess_std         | r             | standard deviation of x_0 - g, from pretraining            |
| pull              | q             | where the joints seen pull E[x_0 | x_t] (hmr.policy.keypoint_feedback), asinh  |
| prediction        | v_theta       | denoiser + (a x_t - E[x_0 | x_t]) / s, E under N(g, r^2)   |
| denoising error   | L(x_t, eps)   | mean over the parameters of (v_theta - v_t)^2              |

with a = sqrt(abar_t) and s = sqrt(1 - abar_t): the denoiser that predicts nothing samples from a Gaussian about the
guess, exactly (E[x_0 | x_t] = g + a r^2 (x_t - a g) / (a^2 r^2 + s^2)), and what is learned is all that is not
Gaussian. It is the preconditioning of EDM (Karras et al., NeurIPS 2022, arXiv 2206.00364) about a mean that the image
gives.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.policy.backbone import PREFIX, BackboneCard, TransformersEncoder, describe_backbone
from hmr.policy.config import DiffusionPolicyConfig, fingerprint_settings
from hmr.policy.denoisers import Denoiser, TokenDenoiser
from hmr.policy.encoder import CropEncoder, Seen
from hmr.policy.flip import FlipFeatures, flip_test, mirror_box, mirror_vector
from hmr.policy.keypoint_feedback import KeypointGradient
from hmr.policy.parametrization import (
    VECTOR_SIZE,
    box_features,
    camera_of,
    geometry_of,
    params_from_vector,
    vector_from_params,
)
from hmr.policy.scheduler import Solver, new_solver
from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams, Box, Hypotheses, Sample

__all__ = ["DiffusionPolicy", "DiffusionPolicyConfig", "Features", "Guidance"]


INITIAL_STD = (0.05, 1.5)  # of a standardised parameter, whatever the head says


@dataclass(frozen=True)
class Features:
    """What the policy keeps of a batch of images: the condition of the denoiser and where each crop lay."""

    condition: Float[Tensor, "batch channels"]
    geometry: Float[Tensor, "batch 8"]  # see hmr.policy.parametrization.geometry_of

    def __len__(self) -> int:
        return self.condition.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Features:
        return Features(self.condition[rows], self.geometry[rows])


@runtime_checkable
class Guidance(Protocol):
    """Pulls predictions towards what else is known of the images; `hmr.policy.guidance` has one for detections."""

    def guide(
        self, x0: Float[Tensor, "batch group dim"], steps_left: int
    ) -> Float[Tensor, "batch group dim"]:
        """A better x_0 in the policy's standardised coordinates; `steps_left` is 0 at the last step."""
        ...


class DiffusionPolicy(PreTrainedModel):
    """`from_pretrained(folder)` reads safetensors and a JSON config, never a pickle."""

    config_class = DiffusionPolicyConfig
    base_model_prefix = ""
    main_input_name = "condition"
    config: DiffusionPolicyConfig
    denoiser: Denoiser | TokenDenoiser
    mean: Tensor
    std: Tensor
    guess_std: Tensor

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__(config)
        self.encoder = _new_encoder(config)
        self.seen_size = seen_size = self.encoder.vector_size + 3
        self.denoiser = _new_denoiser(config, seen_size + VECTOR_SIZE)
        self.regressor = nn.Sequential(
            nn.LayerNorm(seen_size),
            nn.Linear(seen_size, config.head_width),
            nn.SiLU(),
            nn.Linear(config.head_width, config.head_width),
            nn.SiLU(),
            nn.Linear(config.head_width, VECTOR_SIZE),
        )
        self.register_buffer("mean", torch.zeros(VECTOR_SIZE))
        self.register_buffer("std", torch.ones(VECTOR_SIZE))
        self.register_buffer("guess_std", torch.ones(VECTOR_SIZE))
        self.pull = KeypointGradient()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves: transformers' default would overwrite the zeros they start from."""

    @functools.cached_property
    def scheduler(self) -> Solver:
        """Made when first asked for: `from_pretrained` builds the module where tensors have no data yet."""
        return new_solver("ddim", self.config.num_train_timesteps)

    def fit_to(self, body: Body, mean: Float[Tensor, "157"], std: Float[Tensor, "157"]) -> None:
        """Before pretraining: remember the body's joints at rest and the statistics of the training targets."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.pull.fit_to(body)

    @torch.no_grad()
    def fit_initial_estimate(
        self, features: Float[Tensor, "rows features"], vectors: Float[Tensor, "rows 157"]
    ) -> None:
        """Remember how far the regression head's guess is off on scenes that it was not trained on; the denoiser, which
        learned what another Gaussian left over, begins again from nothing."""
        error = (
            self.initial_estimate(features.to(self.device)) - (vectors.to(self.device) - self.mean) / self.std
        )
        self.guess_std.copy_(error.square().mean(dim=0).sqrt().clamp(*INITIAL_STD))
        self.denoiser.reset_head()

    # -- seeing ----------------------------------------------------------------------------------------------

    def crop_box(self, box: Box) -> Box:
        return box.square(self.config.crop_scale)

    def crops(self, samples: Sequence[Sample]) -> Float[Tensor, "batch 3 side side"]:
        """The squares that the encoder sees, RGB from 0 to 1."""
        size = self.config.crop_size
        pixels = np.stack([crop_image(s.image, self.crop_box(s.box), size) for s in samples])
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 255

    def encode_crops(self, crops: Float[Tensor, "batch 3 side side"]) -> Seen:
        """The encoder's heads, always in evaluation mode: a look changes nothing."""
        encoder = self.encoder.eval()
        return flip_test(encoder, crops) if self.config.mirror_look else encoder(crops)

    @torch.no_grad()
    def see(self, samples: Sequence[Sample]) -> Seen:
        return self.encode_crops(self.crops(samples))

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample]) -> Features:
        """One pass of the encoder an image, however many hypotheses are then sampled."""
        return self.features(self.see(samples), samples)

    def features(self, seen: Seen, samples: Sequence[Sample]) -> Features:
        """What `encode` keeps of a look that was taken before."""
        boxes = [self.crop_box(sample.box) for sample in samples]
        geometry = geometry_of([sample.camera for sample in samples], boxes).to(self.device)
        return Features(self.condition(self.seen_features(seen, geometry)), geometry)

    @staticmethod
    def seen_features(seen: Seen, geometry: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch features"]:
        """What the encoder saw, and where in the view it looked; then the same of the mirror, if it looked there."""
        box = box_features(geometry)
        looks = [seen.vector, box]
        if isinstance(seen, FlipFeatures):
            looks += [seen.mirror_vector, mirror_box(box)]
        return torch.cat(looks, dim=-1)

    def initial_estimate(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 157"]:
        """The regression head's x0: of one look, or the middle of what it says of both."""
        looks = self.regressor(features.unflatten(-1, (-1, self.seen_size))).float()
        if looks.shape[1] == 1:
            return looks[:, 0]
        own, mirrored = (looks * self.std + self.mean).unbind(dim=1)
        return ((own + mirror_vector(mirrored)) / 2 - self.mean) / self.std

    def condition(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch channels"]:
        """What the denoiser is told: the features of the crop itself and the guess of x0, which it cannot move."""
        return torch.cat([features[:, : self.seen_size], self.initial_estimate(features).detach()], dim=-1)

    # -- posing ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
        guidance: Guidance | None = None,
    ) -> list[Hypotheses]:
        """M hypotheses an image, the first from zero noise; on the CPU, wherever the policy is.

        `noise_scale` multiplies the starting noise: below 1 hypotheses huddle, above 1 they spread. `guidance` is of
        the same images in the same order.
        """
        shape = (len(features), num_samples, VECTOR_SIZE)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(self.device)
        noise[:, 0] = 0
        vectors = self._denoise(
            noise * (noise_scale * self.config.noise_temperature), features.condition, guidance
        )
        return self.hypotheses(vectors, features)

    @torch.no_grad()
    def regress(self, features: Features) -> list[Hypotheses]:
        """The regression head's single answer (batch shape (1,)): the baseline that diffusion must beat."""
        return self.hypotheses(features.condition[:, None, -VECTOR_SIZE:], features)

    def hypotheses(self, x0: Float[Tensor, "batch group dim"], features: Features) -> list[Hypotheses]:
        """A group an image, on the CPU: bodies, renderers and critics are there."""
        params = self.from_x0(x0, features).to("cpu")
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    def _denoise(
        self,
        noisy: Float[Tensor, "batch group dim"],
        condition: Float[Tensor, "batch channels"],
        guidance: Guidance | None,
    ) -> Float[Tensor, "batch group dim"]:
        # its own solver: stepping has state, and an agent's threads share a policy
        solver = new_solver(self.config.solver, self.config.num_train_timesteps)
        solver.set_timesteps(self.config.num_inference_steps, device=self.device)
        timesteps = solver.timesteps.tolist()
        for index, timestep in enumerate(timesteps):
            times = torch.full((noisy.shape[0], 1), timestep, device=self.device)
            prediction = self.predict(noisy[:, :, None], times, condition)[:, :, 0]
            if guidance is not None:
                abar = solver.alphas_cumprod[timestep].to(self.device)
                signal, spread = abar.sqrt(), (1 - abar).sqrt()
                x0 = guidance.guide(signal * noisy - spread * prediction, len(timesteps) - 1 - index)
                prediction = (signal * noisy - x0) / spread
            noisy = solver.step(prediction, timestep, noisy, return_dict=False)[0]
        return noisy

    # -- the diffusion's own coordinates ---------------------------------------------------------------------

    def rest_pelvis_m(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 3"]:
        return self.pull.joint_template[0] + betas @ self.pull.joint_shapedirs[0].T

    def to_x0(self, params: BodyParams, features: Features) -> Float[Tensor, "batch group dim"]:
        """Standardised targets of bodies with batch shape (B, G), B images and G hypotheses each, wherever they are."""
        params = params.to(self.device)
        pelvis_cam_m = params.transl + self.rest_pelvis_m(params.betas)
        vectors = vector_from_params(params, pelvis_cam_m, features.geometry[:, None])
        return (vectors - self.mean) / self.std

    def from_x0(self, x0: Float[Tensor, "batch group dim"], features: Features) -> BodyParams:
        vectors = x0 * self.std + self.mean
        betas = vectors[..., NUM_JOINTS * 6 : NUM_JOINTS * 6 + NUM_BETAS]
        return params_from_vector(vectors, self.rest_pelvis_m(betas), features.geometry[:, None])

    def alpha_sigma(
        self, timesteps: Int[Tensor, "batch steps"]
    ) -> tuple[Float[Tensor, "batch 1 steps 1"], Float[Tensor, "batch 1 steps 1"]]:
        """a = sqrt(abar_t) and s = sqrt(1 - abar_t)."""
        abar = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps][:, None, :, None]
        return abar.sqrt(), (1 - abar).sqrt()

    def noisy_and_target(
        self,
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> tuple[Float[Tensor, "batch group steps dim"], Float[Tensor, "batch group steps dim"]]:
        """x_t and v_t; the whole group of an image shares its times and its noise."""
        signal, spread = self.alpha_sigma(timesteps)
        clean, noise = x0[:, :, None], noise[:, None]
        return signal * clean + spread * noise, signal * noise - spread * clean

    def predict(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """v_theta: the Gaussian part about the guess, which is exact, and the denoiser's, which is learned."""
        signal, spread = self.alpha_sigma(timesteps)
        guess = condition[:, None, None, -VECTOR_SIZE:]
        variance = self.guess_std.square()
        gain = signal * variance / (signal.square() * variance + spread.square())
        expected = guess + gain * (noisy - signal * guess)
        seen = condition[:, None, None, :-VECTOR_SIZE]
        with torch.autocast(noisy.device.type, enabled=False):  # a chain of rotations bears no half precision
            pull = self.pull(expected.float() * self.std + self.mean, seen.float()).asinh()
        return (signal * noisy - expected) / spread + self.denoiser(noisy, pull, timesteps, condition)

    def forward(
        self,
        condition: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        """The denoising error of each hypothesis at each time, float32, averaged over the parameters."""
        noisy, target = self.noisy_and_target(x0, timesteps, noise)
        prediction = self.predict(noisy, timesteps, condition)
        return (prediction.float() - target.float()).square().mean(dim=-1)

    def digest(self) -> str:
        """Content hash of the weights and of the settings that shape an answer: names the policy in every figure it
        made."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            state.update(name.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(flat.view(torch.uint8).numpy().tobytes())  # numpy knows no bfloat16
        for setting in fingerprint_settings(self.config):
            state.update(setting.encode())
        if isinstance(self.encoder, TransformersEncoder):
            state.update(self.encoder.card.what_it_sees().encode())
        return state.hexdigest()[:16]


def _new_encoder(config: DiffusionPolicyConfig) -> CropEncoder | TransformersEncoder:
    if config.encoder == "embedded":
        fine, middle, coarse = config.encoder_widths
        return CropEncoder((fine, middle, coarse))
    if not config.encoder.startswith(PREFIX):
        raise ValueError(f"no encoder is called {config.encoder!r}; there are embedded, {PREFIX}NAME")
    if config.backbone is None:
        config.backbone = dataclasses.asdict(describe_backbone(config.encoder.removeprefix(PREFIX)))
    return TransformersEncoder(BackboneCard.of(config.backbone))


def _new_denoiser(config: DiffusionPolicyConfig, condition_size: int) -> Denoiser | TokenDenoiser:
    if config.denoiser == "mlp":
        return Denoiser(VECTOR_SIZE, condition_size, config.width, config.depth)
    if config.denoiser == "tokens":
        return TokenDenoiser(condition_size, config.width, config.depth, config.heads, config.tokens)
    raise ValueError(f"no denoiser is called {config.denoiser!r}; there are mlp, tokens")
