"""The losses of the policy's pretraining.

| term          | compared quantities                                           | weight         |
|---------------|---------------------------------------------------------------|----------------|
| regression    | smooth L1 on the vector, L1 on its joints (regression head)   | `regression`   |
| denoise       | v_theta and v_t, mean over K times (`hmr.policy.policy`)      | `denoise`      |
| x0 joints     | joints of the predicted x_0, metres                           | `x0_joints`    |
| reprojection  | those joints through the estimated camera, crop units         | `reprojection` |

The terms on x_0 have the same weight at all times: at high noise x_0 is the mean of many poses, and hypothesis 0 and
the averaged pose start from it. A mean of parameters is not the mean of joints, so the regression loss has a term for
the joints.

The ground truth is defined under the true camera. Reprojection uses the camera that the policy is given, so that bodies
align with the image under the camera that is used at inference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.policy.parametrization import pelvis_from_crop, project, split
from hmr.policy.policy import DiffusionPolicy
from hmr.types import NUM_JOINTS

__all__ = [
    "DenoiserLoss",
    "LossWeights",
    "Prediction",
    "RegressionLoss",
    "estimate_error",
    "predict_bodies",
    "weighted",
]


@dataclass(frozen=True)
class LossWeights:
    denoise: float = 1.0
    x0_joints: float = 20.0
    reprojection: float = 0.5
    regression: float = 1.0


JOINTS_WEIGHT = 5.0  # of the joints (metres) in the regression term
MAX_REPROJECTION = 2.0  # crop units; larger errors of a joint are cut off


def joints_of(policy: DiffusionPolicy, vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 24 3"]:
    """Joints of raw vectors in metres, pelvis at the origin, camera axes; of the body that the policy was fitted to."""
    rotations, betas, _ = split(vector)
    return policy.feedback.points(rotations, betas).points_m[..., :NUM_JOINTS, :]


def reproject(
    vector: Float[Tensor, "*batch 157"],
    joints_m: Float[Tensor, "*batch 24 3"],
    geometry: Float[Tensor, "*#batch 8"],
) -> Float[Tensor, "*batch 24 2"]:
    """Joints of raw vectors under the given camera, in crop units (-1 to 1 from border to border)."""
    points_cam_m = joints_m + pelvis_from_crop(split(vector)[2], geometry)[..., None, :]
    center, side = geometry[..., None, 5:7], geometry[..., None, 7:]
    return (project(points_cam_m, geometry) - center) * 2 / side


def weighted(terms: dict[str, Tensor], weights: object) -> dict[str, Tensor]:
    """The weighted sum as "loss", and each unweighted term for the log; `weights` is a dataclass of numbers."""
    loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return {"loss": loss, **{f"{name}_loss": term.detach() for name, term in terms.items()}}


def estimate_error(
    policy: DiffusionPolicy, estimate: Float[Tensor, "batch 157"], x0: Float[Tensor, "batch 157"]
) -> Float[Tensor, ""]:
    """The term `regression`: of an initial estimate and its target, both in the policy's coordinates."""
    joints_m, true_joints_m = (joints_of(policy, each * policy.std + policy.mean) for each in (estimate, x0))
    return F.smooth_l1_loss(estimate, x0) + JOINTS_WEIGHT * (joints_m - true_joints_m).abs().mean()


@dataclass(frozen=True)
class Prediction:
    """What the denoiser makes of one body per image at several times."""

    denoise: Float[Tensor, ""]  # the terms of that name
    x0_joints: Float[Tensor, ""]
    vector: Float[Tensor, "batch times 157"]  # the predicted body, and its joints in metres
    joints_m: Float[Tensor, "batch times 24 3"]


def predict_bodies(
    policy: DiffusionPolicy,
    condition: Float[Tensor, "batch channels"],
    x0: Float[Tensor, "batch 157"],
    timesteps: Int[Tensor, "batch times"],
    noise: Float[Tensor, "batch times 157"],
) -> Prediction:
    """Noise the bodies and predict them."""
    noisy, target = policy.noisy_and_target(x0[:, None], timesteps, noise)
    predicted = policy.predict(noisy, timesteps, condition).float()
    alpha, sigma = policy.alpha_sigma(timesteps)
    vector = (alpha * noisy - sigma * predicted)[:, 0] * policy.std + policy.mean
    joints_m, true_joints_m = joints_of(policy, vector), joints_of(policy, x0 * policy.std + policy.mean)
    return Prediction(
        (predicted - target).square().mean(),
        (joints_m - true_joints_m[:, None]).abs().mean(),
        vector,
        joints_m,
    )


class RegressionLoss(nn.Module):
    """The loss of the regression head, as a module for transformers.Trainer."""

    def __init__(self, policy: DiffusionPolicy, weights: LossWeights) -> None:
        super().__init__()
        self.policy, self.weights = policy, weights

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        policy = self.policy
        estimate = policy.initial_estimate(features)
        raw = estimate * policy.std + policy.mean
        terms = {
            "regression": estimate_error(policy, estimate, (vector - policy.mean) / policy.std),
            "reprojection": _reprojection(raw, joints_of(policy, raw), geometry, keypoints),
        }
        return weighted(terms, self.weights)


class DenoiserLoss(nn.Module):
    """The loss of the denoiser about a frozen regression head, at stratified random times."""

    def __init__(self, policy: DiffusionPolicy, weights: LossWeights, times_per_person: int) -> None:
        super().__init__()
        self.policy, self.weights, self.times = policy, weights, times_per_person

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        policy = self.policy
        with torch.no_grad():
            condition = policy.condition(features)
        x0 = (vector - policy.mean) / policy.std
        found = predict_bodies(policy, condition, x0, *self._times_and_noise(x0))
        terms = {
            "denoise": found.denoise,
            "x0_joints": found.x0_joints,
            "reprojection": _reprojection(
                found.vector, found.joints_m, geometry[:, None], keypoints[:, None]
            ),
        }
        return weighted(terms, self.weights)

    def _times_and_noise(self, x0: Float[Tensor, "batch 157"]) -> tuple[Tensor, Tensor]:
        """Timesteps (batch, times) and noise (batch, times, 157)."""
        count, device = len(x0), x0.device
        strata = torch.arange(self.times, device=device) + torch.rand(count, self.times, device=device)
        timesteps = (strata / self.times * self.policy.config.num_train_timesteps).long()
        return timesteps, torch.randn(count, self.times, x0.shape[-1], device=device)


def _reprojection(
    vector: Float[Tensor, "*batch 157"],
    joints_m: Float[Tensor, "*batch 24 3"],
    geometry: Float[Tensor, "*#batch 8"],
    keypoints: Float[Tensor, "*#batch 24 2"],
) -> Float[Tensor, ""]:
    offset = (reproject(vector, joints_m, geometry) - keypoints).abs()
    return offset.clamp_max(MAX_REPROJECTION).mean()
