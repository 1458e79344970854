"""The diffusion policy: one photograph of a person -> any number of body hypotheses.

Follows ScoreHypo (CVPR 2024) and ADHMR (ICML 2025, arXiv 2505.10250): a deterministic encoder, a conditional denoiser,
a solver with few steps, hypothesis 0 from zero noise. Two differences: rotations, shape and camera are all diffused
(theirs regress the last two), and the prediction target is v on a schedule whose terminal signal-to-noise ratio is zero
(Lin et al., WACV 2024, arXiv 2305.08891), because epsilon with a high terminal ratio samples from the wrong prior.

| variable          | symbol        | equation                                                   |
|-------------------|---------------|------------------------------------------------------------|
| x0                | x_0           | parametrisation vector, standardised by pretraining's data |
| noise             | eps           | N(0, I)                                                    |
| noisy             | x_t           | sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                    |
| target            | v_t           | sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                    |
| estimate          | g             | the regression head's x_0, part of the condition           |
| guess_std         | r             | standard deviation of x_0 - g, from pretraining            |
| feedback          | q             | asinh of `hmr.policy.keypoint_feedback` at E[x_0 | x_t]    |
| prediction        | v_theta       | denoiser + (a x_t - E[x_0 | x_t]) / s, E under N(g, r^2)   |
| denoising error   | L(x_t, eps)   | mean over the parameters of (v_theta - v_t)^2              |

with a = sqrt(abar_t) and s = sqrt(1 - abar_t). A denoiser that predicts zero samples exactly from a Gaussian about g
(E[x_0 | x_t] = g + a r^2 (x_t - a g) / (a^2 r^2 + s^2)), so it learns only the difference from that Gaussian. This is
the preconditioning of EDM (Karras et al., NeurIPS 2022, arXiv 2206.00364) about a mean that depends on the image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.fingerprint import weights_digest
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.policy.backbone import PREFIX, BackboneSpec, TransformersEncoder, describe_backbone
from hmr.policy.config import DiffusionPolicyConfig, fingerprint_settings
from hmr.policy.denoisers import Denoiser, TokenDenoiser
from hmr.policy.encoder import CropEncoder, EncoderOutput
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


INITIAL_STD = (0.05, 1.5)  # bounds of `guess_std`


@dataclass(frozen=True)
class Features:
    """What sampling needs of a batch of images: the condition of the denoiser and the position of each crop."""

    condition: Float[Tensor, "batch channels"]
    geometry: Float[Tensor, "batch 8"]  # see hmr.policy.parametrization.geometry_of

    def __len__(self) -> int:
        return self.condition.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Features:
        return Features(self.condition[rows], self.geometry[rows])


@runtime_checkable
class Guidance(Protocol):
    """Moves predictions towards other evidence of the images, such as detections (`hmr.policy.guidance`)."""

    def guide(
        self, x0: Float[Tensor, "batch group dim"], steps_left: int
    ) -> Float[Tensor, "batch group dim"]:
        """The guided x_0, in the policy's standardised coordinates; `steps_left` is 0 at the last step."""
        ...


class DiffusionPolicy(PreTrainedModel):
    """`from_pretrained(folder)` reads safetensors and a JSON config, never a pickle.

    `guess_std` (deviation of the initial estimate) and `pull` (keypoint feedback) keep the names that checkpoints have.
    """

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
        self.feature_size = feature_size = self.encoder.vector_size + 3
        self.denoiser = _new_denoiser(config, feature_size + VECTOR_SIZE)
        self.regressor = nn.Sequential(
            nn.LayerNorm(feature_size),
            nn.Linear(feature_size, config.head_width),
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
        """Does nothing: transformers' default would overwrite the zeros that some modules start from."""

    @functools.cached_property
    def scheduler(self) -> Solver:
        """Created at first use: `from_pretrained` builds the module with tensors that have no data yet."""
        return new_solver("ddim", self.config.num_train_timesteps)

    def fit_to(self, body: Body, mean: Float[Tensor, "157"], std: Float[Tensor, "157"]) -> None:
        """Before pretraining: store the body's joints at rest, and mean and deviation of the training targets."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.pull.fit_to(body)

    @torch.no_grad()
    def fit_initial_estimate(
        self, features: Float[Tensor, "rows features"], vectors: Float[Tensor, "rows 157"]
    ) -> None:
        """Store the error of the regression head on scenes that it was not trained on (`guess_std`). The denoiser was
        trained for another Gaussian, so its head is reset."""
        error = (
            self.initial_estimate(features.to(self.device)) - (vectors.to(self.device) - self.mean) / self.std
        )
        self.guess_std.copy_(error.square().mean(dim=0).sqrt().clamp(*INITIAL_STD))
        self.denoiser.reset_head()

    # -- encoding --------------------------------------------------------------------------------------------

    def crop_box(self, box: Box) -> Box:
        return box.square(self.config.crop_scale)

    def crops(self, samples: Sequence[Sample]) -> Float[Tensor, "batch 3 side side"]:
        """The encoder's input, RGB from 0 to 1."""
        size = self.config.crop_size
        pixels = np.stack([crop_image(s.image, self.crop_box(s.box), size) for s in samples])
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float() / 255

    def encode_crops(self, crops: Float[Tensor, "batch 3 side side"]) -> EncoderOutput:
        """The encoder's output, always in evaluation mode, so that batch statistics do not change."""
        encoder = self.encoder.eval()
        return flip_test(encoder, crops) if self.config.mirror_look else encoder(crops)

    @torch.no_grad()
    def run_encoder(self, samples: Sequence[Sample]) -> EncoderOutput:
        return self.encode_crops(self.crops(samples))

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample]) -> Features:
        """One pass of the encoder per image, for any number of hypotheses."""
        return self.features(self.run_encoder(samples), samples)

    def features(self, output: EncoderOutput, samples: Sequence[Sample]) -> Features:
        """As `encode`, from an encoder output computed before."""
        boxes = [self.crop_box(sample.box) for sample in samples]
        geometry = geometry_of([sample.camera for sample in samples], boxes).to(self.device)
        return Features(self.condition(self.encoder_features(output, geometry)), geometry)

    @staticmethod
    def encoder_features(
        output: EncoderOutput, geometry: Float[Tensor, "batch 8"]
    ) -> Float[Tensor, "batch features"]:
        """The encoder's vector and the box features; after a flip test followed by those of the mirror image."""
        box = box_features(geometry)
        features = [output.vector, box]
        if isinstance(output, FlipFeatures):
            features += [output.mirror_vector, mirror_box(box)]
        return torch.cat(features, dim=-1)

    def initial_estimate(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 157"]:
        """The regression head's x0, after a flip test the mean over both images."""
        estimates = self.regressor(features.unflatten(-1, (-1, self.feature_size))).float()
        if estimates.shape[1] == 1:
            return estimates[:, 0]
        own, mirrored = (estimates * self.std + self.mean).unbind(dim=1)
        return ((own + mirror_vector(mirrored)) / 2 - self.mean) / self.std

    def condition(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch channels"]:
        """The denoiser's condition: features of the crop (not of its mirror image) and detached initial estimate."""
        return torch.cat([features[:, : self.feature_size], self.initial_estimate(features).detach()], dim=-1)

    # -- sampling --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
        guidance: Guidance | None = None,
    ) -> list[Hypotheses]:
        """`num_samples` hypotheses per image, the first from zero noise, on the CPU.

        noise_scale: factor of the starting noise; a larger one increases the spread of the hypotheses.
        guidance: for the same images in the same order.
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
        """The regression head's single estimate (batch shape (1,)), a baseline for the diffusion."""
        return self.hypotheses(features.condition[:, None, -VECTOR_SIZE:], features)

    def hypotheses(self, x0: Float[Tensor, "batch group dim"], features: Features) -> list[Hypotheses]:
        """One group per image, on the CPU, where bodies, renderers and critics run."""
        params = self.from_x0(x0, features).to("cpu")
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    def _denoise(
        self,
        noisy: Float[Tensor, "batch group dim"],
        condition: Float[Tensor, "batch channels"],
        guidance: Guidance | None,
    ) -> Float[Tensor, "batch group dim"]:
        # a new solver per call: solvers have state, and an agent's threads share the policy
        solver = new_solver(self.config.solver, self.config.num_train_timesteps)
        solver.set_timesteps(self.config.num_inference_steps, device=self.device)
        timesteps = solver.timesteps.tolist()
        for index, timestep in enumerate(timesteps):
            times = torch.full((noisy.shape[0], 1), timestep, device=self.device)
            prediction = self.predict(noisy[:, :, None], times, condition)[:, :, 0]
            if guidance is not None:
                abar = solver.alphas_cumprod[timestep].to(self.device)
                alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
                x0 = guidance.guide(alpha * noisy - sigma * prediction, len(timesteps) - 1 - index)
                prediction = (alpha * noisy - x0) / sigma
            noisy = solver.step(prediction, timestep, noisy, return_dict=False)[0]
        return noisy

    # -- standardised coordinates ----------------------------------------------------------------------------

    def rest_pelvis_m(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 3"]:
        return self.pull.joint_template[0] + betas @ self.pull.joint_shapedirs[0].T

    def to_x0(self, params: BodyParams, features: Features) -> Float[Tensor, "batch group dim"]:
        """Standardised vectors of bodies with batch shape (B, G): B images with G hypotheses each, on any device."""
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
        """x_t and v_t; all hypotheses of an image share times and noise."""
        alpha, sigma = self.alpha_sigma(timesteps)
        clean, noise = x0[:, :, None], noise[:, None]
        return alpha * clean + sigma * noise, alpha * noise - sigma * clean

    def predict(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """v_theta: the exact prediction for a Gaussian about the initial estimate, plus the denoiser's."""
        alpha, sigma = self.alpha_sigma(timesteps)
        features, estimate = condition.split([self.feature_size, VECTOR_SIZE], dim=-1)
        features, estimate = features[:, None, None], estimate[:, None, None]
        variance = self.guess_std.square()
        gain = alpha * variance / (alpha.square() * variance + sigma.square())
        expected = estimate + gain * (noisy - alpha * estimate)
        # half precision is too coarse for a chain of rotations
        with torch.autocast(noisy.device.type, enabled=False):
            feedback = self.pull(expected.float() * self.std + self.mean, features.float()).asinh()
        return (alpha * noisy - expected) / sigma + self.denoiser(noisy, feedback, timesteps, condition)

    def forward(
        self,
        condition: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps"]:
        """The denoising error of each hypothesis at each time, averaged over the parameters, in float32."""
        noisy, target = self.noisy_and_target(x0, timesteps, noise)
        prediction = self.predict(noisy, timesteps, condition)
        return (prediction.float() - target.float()).square().mean(dim=-1)

    def digest(self) -> str:
        """Content hash of the weights and of the settings that shape an answer; every result names its policy by it."""
        settings = fingerprint_settings(self.config)
        if isinstance(self.encoder, TransformersEncoder):
            settings.append(self.encoder.spec.fingerprint())
        return weights_digest(self.state_dict(), after=settings)

    def encoder_digest(self) -> str:
        """Content hash of what alignment never trains: encoder, regression head, statistics of x_0, flip test."""
        state = self.state_dict()
        fixed = {name: state[name] for name in state if not name.startswith("denoiser.")}
        return weights_digest(fixed, after=["mirror_look=True"] if self.config.mirror_look else [])


def _new_encoder(config: DiffusionPolicyConfig) -> CropEncoder | TransformersEncoder:
    if config.encoder == "embedded":
        fine, middle, coarse = config.encoder_widths
        return CropEncoder((fine, middle, coarse))
    if not config.encoder.startswith(PREFIX):
        raise ValueError(f"no encoder is called {config.encoder!r}; there are embedded, {PREFIX}NAME")
    if config.backbone is None:
        config.backbone = dataclasses.asdict(describe_backbone(config.encoder.removeprefix(PREFIX)))
    return TransformersEncoder(BackboneSpec.from_dict(config.backbone))


def _new_denoiser(config: DiffusionPolicyConfig, condition_size: int) -> Denoiser | TokenDenoiser:
    if config.denoiser == "mlp":
        return Denoiser(VECTOR_SIZE, condition_size, config.width, config.depth)
    if config.denoiser == "tokens":
        return TokenDenoiser(condition_size, config.width, config.depth, config.heads, config.tokens)
    raise ValueError(f"no denoiser is called {config.denoiser!r}; there are mlp, tokens")
