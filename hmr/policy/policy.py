"""The diffusion policy: what a detector reports of a person -> any number of body hypotheses.

Follows ScoreHypo (CVPR 2024) and ADHMR (ICML 2025, arXiv 2505.10250): a conditional denoiser, a solver with few steps,
hypothesis 0 from zero noise. Three differences: the condition is a detection (`hmr.policy.condition`) and no image
features, so that any detector can be used and training needs no images; rotations, shape and camera are all diffused
(theirs regress the last two); and the prediction target is v on a schedule whose terminal signal-to-noise ratio is zero
(Lin et al., WACV 2024, arXiv 2305.08891), because epsilon with a high terminal ratio samples from the wrong prior.

| variable          | symbol        | equation                                                   |
|-------------------|---------------|------------------------------------------------------------|
| x0                | x_0           | parametrisation vector, standardised by pretraining's data |
| noise             | eps           | N(0, I)                                                    |
| noisy             | x_t           | sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                    |
| target            | v_t           | sqrt(abar_t) eps - sqrt(1 - abar_t) x_0                    |
| estimate          | g             | the regression head's x_0, part of the condition           |
| initial_std       | r             | standard deviation of x_0 - g, from pretraining            |
| feedback          | q             | asinh of `hmr.policy.keypoint_feedback` at E[x_0 | x_t]    |
| prediction        | v_theta       | denoiser + (a x_t - E[x_0 | x_t]) / s, E under N(g, r^2)   |
| denoising error   | L(x_t, eps)   | mean over the parameters of (v_theta - v_t)^2              |

with a = sqrt(abar_t) and s = sqrt(1 - abar_t). A denoiser that predicts zero samples exactly from a Gaussian about g
(E[x_0 | x_t] = g + a r^2 (x_t - a g) / (a^2 r^2 + s^2)), so it learns only the difference from that Gaussian. This is
the preconditioning of EDM (Karras et al., NeurIPS 2022, arXiv 2206.00364) about a mean that depends on the image.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.seeding import Generators, standard_normal
from common.storage.fingerprint import weights_digest
from hmr.body.model import Body
from hmr.detection.protocol import detect_all
from hmr.policy.condition import CONDITION_SIZE, condition_of, points_of, unpack_points
from hmr.policy.config import DiffusionPolicyConfig, SamplingSettings, fingerprint_settings
from hmr.policy.denoisers import Denoiser, TokenDenoiser
from hmr.policy.distribution_alignment import (
    DistributionAlignment,
    StandardisedBody,
    draw_targets,
    start_from_estimate,
)
from hmr.policy.initial_estimate import RegressionHead
from hmr.policy.keypoint_feedback import KeypointGradient
from hmr.policy.parametrization import (
    VECTOR_SIZE,
    box_features,
    camera_of,
    geometry_of,
    params_from_vector,
    vector_from_params,
)
from hmr.policy.scheduler import Solver, new_solver, set_times
from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams, Box, Detection, Detector, Hypotheses, Sample

__all__ = ["SAME_BODY_MM", "DiffusionPolicy", "DiffusionPolicyConfig", "Features", "Guidance", "OnStep"]

OnStep = Callable[[list[Hypotheses]], None]  # the estimates of one step of the solver, one group per image

SAME_BODY_MM = 1.0  # distance of joints at rest, below which two bodies are taken as one
INITIAL_STD = (0.05, 1.5)  # bounds of `initial_std`


@dataclass(frozen=True)
class Features:
    """What sampling needs of a batch of people: the condition of the denoiser and the position of each crop."""

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
    """Written by `save_pretrained`; `hmr.policy.checkpoint.load_policy` reads it."""

    config_class = DiffusionPolicyConfig
    base_model_prefix = ""
    main_input_name = "condition"
    config: DiffusionPolicyConfig
    denoiser: Denoiser | TokenDenoiser
    mean: Tensor
    std: Tensor
    initial_std: Tensor

    def __init__(self, config: DiffusionPolicyConfig) -> None:
        super().__init__(config)
        self.feature_size = CONDITION_SIZE + config.appearance_size
        self.denoiser = _new_denoiser(config, self.feature_size + VECTOR_SIZE)
        self.regressor = RegressionHead(self.feature_size, config.head_width, config.head_depth, VECTOR_SIZE)
        self.register_buffer("mean", torch.zeros(VECTOR_SIZE))
        self.register_buffer("std", torch.ones(VECTOR_SIZE))
        self.register_buffer("initial_std", torch.ones(VECTOR_SIZE))
        self.feedback = KeypointGradient()
        self._detector: list[
            Detector
        ] = []  # a list, because a network among a module's attributes joins its weights
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: transformers' default would overwrite the zeros that some modules start from."""

    @functools.cached_property
    def scheduler(self) -> Solver:
        """Created at first use: a checkpoint is first built with tensors that have no data."""
        return new_solver("ddim", self.config.num_train_timesteps)

    def fit_to(self, body: Body, mean: Float[Tensor, "157"], std: Float[Tensor, "157"]) -> None:
        """Before pretraining: store the body's points at rest, and mean and deviation of the training targets."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.feedback.fit_to(body)

    def distance_mm(self, body: Body) -> float:
        """The mean distance between this body's joints at rest and those of the body of pretraining."""
        own, other = self.feedback.points.joint_template.cpu(), body.joint_template.cpu()
        return 1e3 * float(((own - own[:1]) - (other - other[:1])).norm(dim=-1).mean())

    def require_body(self, body: Body) -> None:
        """Raises ValueError if the policy was pretrained with another body."""
        if (distance_mm := self.distance_mm(body)) >= SAME_BODY_MM:
            raise ValueError(
                f"this policy was trained with another body: at rest its joints are {distance_mm:.0f} mm from those of "
                f"{body.name}, which scenes are drawn with and hypotheses scored with; give its body or another policy"
            )

    @torch.no_grad()
    def fit_initial_estimate(
        self, features: Float[Tensor, "rows features"], vectors: Float[Tensor, "rows 157"]
    ) -> None:
        """Store the error of the regression head on detections that it was not trained on (`initial_std`). The denoiser
        was trained for another Gaussian, so its head is reset."""
        error = (
            self.initial_estimate(features.to(self.device)) - (vectors.to(self.device) - self.mean) / self.std
        )
        self.initial_std.copy_(error.square().mean(dim=0).sqrt().clamp(*INITIAL_STD))
        self.denoiser.reset_head()

    # -- condition -------------------------------------------------------------------------------------------

    def crop_box(self, box: Box) -> Box:
        """The square that positions are relative to."""
        return box.square(self.config.crop_scale)

    @property
    def detector(self) -> Detector:
        """The detector that `encode` uses for samples without detections. Raises ValueError if there is none."""
        if not self._detector:
            raise ValueError("this policy has no detector; set policy.detector, or give detections")
        return self._detector[0]

    @detector.setter
    def detector(self, detector: Detector) -> None:
        self._detector = [detector]

    def __deepcopy__(self, memo: dict[int, Any]) -> DiffusionPolicy:
        """A copy shares the detector, which nothing changes."""
        for detector in self._detector:
            memo[id(detector)] = detector
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    @torch.no_grad()
    def encode(
        self,
        samples: Sequence[Sample],
        detections: Sequence[Detection] | None = None,
        appearance: Float[Tensor, "batch appearance"] | None = None,
    ) -> Features:
        """The condition of each sample, for any number of hypotheses.

        detections: of the samples, in their order; None: of the policy's detector.
        appearance: an image encoder's vector, for a policy that was trained with one (`config.appearance_size`).
        """
        if detections is None:
            detections = detect_all(self.detector, samples)
        squares = [self.crop_box(sample.box) for sample in samples]
        geometry = geometry_of([sample.camera for sample in samples], squares)
        parts = [condition_of(points_of(detections, squares), box_features(geometry))]
        if appearance is not None:
            parts.append(appearance.cpu())
        features = torch.cat(parts, dim=-1).to(self.device)
        return Features(self.condition(features), geometry.to(self.device))

    def initial_estimate(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 157"]:
        """The regression head's x0."""
        return self.regressor(features).float()

    def condition(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch channels"]:
        """The denoiser's condition: features and the detached initial estimate."""
        return torch.cat([features, self.initial_estimate(features).detach()], dim=-1)

    def refreshed(self, features: Features) -> Features:
        """The features with the initial estimate of the present weights, in place of that of the weights before."""
        return Features(self.condition(features.condition[:, : self.feature_size]), features.geometry)

    # -- sampling --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: Generators,
        noise_scale: float = 1.0,
        guidance: Guidance | None = None,
        on_step: OnStep | None = None,
    ) -> list[Hypotheses]:
        """`num_samples` hypotheses per image, the first from zero noise, on the CPU.

        generator: one for all images, or one per image.
        noise_scale: factor of the starting noise; a larger one increases the spread of the hypotheses.
        guidance: for the same images in the same order.
        on_step: called after every step of the solver with its estimates E[x_0 | x_t]; the last are the hypotheses.

        Raises ValueError for a setting of the sampler that is not allowed.
        """
        settings = SamplingSettings.of(self.config)
        shape = (len(features), num_samples, VECTOR_SIZE)
        noise = standard_normal(shape, generator).to(self.device)
        noise[:, 0] = 0
        guides = [] if guidance is None else [guidance]
        if settings.alignment:
            guides.insert(0, self._alignment(features, num_samples, generator, settings))
        on_estimate = None if on_step is None else lambda x0: on_step(self.hypotheses(x0, features))
        vectors = self._denoise(
            noise * (noise_scale * settings.noise_temperature), features.condition, guides, on_estimate
        )
        return self.hypotheses(vectors, features)

    @torch.no_grad()
    def regress(self, features: Features) -> list[Hypotheses]:
        """The regression head's single estimate (batch shape (1,)), a baseline for the diffusion."""
        return self.hypotheses(features.condition[:, None, -VECTOR_SIZE:], features)

    def hypotheses(self, x0: Float[Tensor, "batch group dim"], features: Features) -> list[Hypotheses]:
        """One group per image, on the CPU, where bodies, renderers and critics run. Raises ValueError for bodies that
        are not finite."""
        params = self.from_x0(x0, features).to("cpu")
        if not params.is_finite:
            raise ValueError(
                "the policy gives bodies that are not finite: its weights or settings are damaged, or its training "
                "diverged"
            )
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    def _alignment(
        self, features: Features, num_samples: int, generator: Generators, settings: SamplingSettings
    ) -> Guidance:
        observed = unpack_points(features.condition)
        return DistributionAlignment(
            StandardisedBody(self.feedback.points, self.mean, self.std, features.geometry),
            observed,
            self.initial_std,
            draw_targets(observed, num_samples, generator),
            strength=settings.alignment,
            steps=settings.num_inference_steps,
        )

    def _denoise(
        self,
        noise: Float[Tensor, "batch group dim"],
        condition: Float[Tensor, "batch channels"],
        guides: Sequence[Guidance] = (),
        on_estimate: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "batch group dim"]:
        """on_estimate: called after every step with its x0, of the shape that is returned."""
        # a new solver per call: solvers have state, and an agent's threads share the policy
        solver = new_solver(self.config.solver, self.config.num_train_timesteps)
        from_estimate = self.config.start == "distribution"
        start_time = self.config.start_time if from_estimate else 1.0
        timesteps = set_times(solver, self.config.num_inference_steps, start_time, self.device)
        noisy = noise
        if from_estimate:
            abar = solver.alphas_cumprod[timesteps[0]].to(self.device)
            noisy = start_from_estimate(noise, condition[:, -VECTOR_SIZE:], self.initial_std, abar)
        for index, timestep in enumerate(timesteps):
            times = torch.full((noisy.shape[0], 1), timestep, device=self.device)
            prediction = self.predict(noisy[:, :, None], times, condition)[:, :, 0]
            abar = solver.alphas_cumprod[timestep].to(self.device)
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
            x0 = alpha * noisy - sigma * prediction
            for guide in guides:
                x0 = guide.guide(x0, len(timesteps) - 1 - index)
            if guides:
                prediction = (alpha * noisy - x0) / sigma
            if on_estimate is not None:
                on_estimate(x0)
            noisy = solver.step(prediction, timestep, noisy, return_dict=False)[0]
        return noisy

    # -- standardised coordinates ----------------------------------------------------------------------------

    def rest_pelvis_m(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 3"]:
        return self.feedback.points.joint_template[0] + betas @ self.feedback.points.joint_shapedirs[0].T

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
        variance = self.initial_std.square()
        gain = alpha * variance / (alpha.square() * variance + sigma.square())
        expected = estimate + gain * (noisy - alpha * estimate)
        # half precision is too coarse for a chain of rotations
        with torch.autocast(noisy.device.type, enabled=False):
            feedback = self.feedback(
                expected.float() * self.std + self.mean, features[..., :CONDITION_SIZE].float()
            ).asinh()
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
        return weights_digest(self.state_dict(), after=fingerprint_settings(self.config))

    def initial_estimate_digest(self) -> str:
        """Content hash of what alignment may leave as it is: regression head and statistics of x_0."""
        state = self.state_dict()
        return weights_digest({name: state[name] for name in state if not name.startswith("denoiser.")})


def _new_denoiser(config: DiffusionPolicyConfig, condition_size: int) -> Denoiser | TokenDenoiser:
    if config.denoiser == "mlp":
        return Denoiser(VECTOR_SIZE, condition_size, config.width, config.depth)
    if config.denoiser == "tokens":
        return TokenDenoiser(condition_size, config.width, config.depth, config.heads, config.tokens)
    raise ValueError(f"no denoiser is called {config.denoiser!r}; there are mlp, tokens")
