"""The losses of pretraining: of the encoder's heads, and of the pose (regression head and denoiser).

| term          | compared quantities                                           | weight                  |
|---------------|---------------------------------------------------------------|-------------------------|
| denoise       | v_theta and v_t, mean over K times (`hmr.policy.policy`)      | `denoise`               |
| x0 joints     | joints of the predicted x_0, metres                           | `x0_joints`             |
| reprojection  | those joints through the estimated camera, crop units         | `reprojection`          |
| keypoints     | Laplace likelihood of the 2D joints inside the crop           | `keypoints`             |
| depths        | the same for their depths behind the pelvis, metres           | `depths`                |
| visible, mask | binary cross-entropy                                          | `visible`, `mask`       |
| regression    | smooth L1 on the vector, L1 on its joints                     | `regression`            |

The terms on x_0 have the same weight at all times: at high noise x_0 is the mean of many poses, and hypothesis 0 and
the averaged pose start from it. A mean of parameters is not the mean of joints, so the regression loss has a term for
the joints.

The ground truth is defined under the true camera. Reprojection uses the estimated camera, so that bodies align with the
image under the camera that is used at inference.

`EncoderAndPoseLoss` is minimised in the first stage of `hmr.pretraining.training`, `PoseLoss`, from stored features, in
the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.body.model import Body
from hmr.policy.encoder import EncoderOutput
from hmr.policy.parametrization import pelvis_from_crop, project, split
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.augmentation import as_floats, augment

__all__ = ["EncoderAndPoseLoss", "LossWeights", "PoseLoss", "joints_of"]


@dataclass(frozen=True)
class LossWeights:
    denoise: float = 1.0
    x0_joints: float = 20.0
    reprojection: float = 0.5
    keypoints: float = 0.3
    depths: float = 0.3
    visible: float = 0.1
    mask: float = 0.3
    regression: float = 0.5


MAX_REPROJECTION = 2.0  # crop units; larger errors of a joint are cut off


def joints_of(vector: Float[Tensor, "*batch 157"], body: Body) -> Float[Tensor, "*batch 24 3"]:
    """Joints of raw vectors in metres, pelvis at the origin, camera axes."""
    rotations, betas, _ = split(vector)
    posed = body.joints_from_matrices(rotations, betas)
    return posed - posed[..., :1, :]


def reproject(
    vector: Float[Tensor, "*batch 157"],
    joints_m: Float[Tensor, "*batch 24 3"],
    geometry: Float[Tensor, "*#batch 8"],
) -> Float[Tensor, "*batch 24 2"]:
    """Joints of raw vectors under the estimated camera, in crop units (-1 to 1 from border to border)."""
    points_cam_m = joints_m + pelvis_from_crop(split(vector)[2], geometry)[..., None, :]
    center, side = geometry[..., None, 5:7], geometry[..., None, 7:]
    return (project(points_cam_m, geometry) - center) * 2 / side


class PoseLoss(nn.Module):
    """The pose losses of a policy on encoder features, as a module for transformers.Trainer."""

    def __init__(
        self, policy: DiffusionPolicy, body: Body, weights: LossWeights, times_per_image: int
    ) -> None:
        super().__init__()
        self.policy, self.weights, self.times_per_image = policy, weights, times_per_image
        self._body = [body]  # a list keeps it out of the state dict

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        return weighted(self.pose_terms(features, vector, geometry, keypoints), self.weights)

    def pose_terms(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        """Unweighted losses of the regression head and the denoiser."""
        joints_m = self._joints_m(vector)
        clean, denoise = self._denoised(features, vector)
        clean_joints_m = self._joints_m(clean)
        error_m = (clean_joints_m - joints_m[:, None]).abs()
        reprojected = reproject(clean, clean_joints_m, geometry[:, None])
        offset = (reprojected - keypoints[:, None]).abs().clamp_max(MAX_REPROJECTION)
        return {
            "regression": self._regression(features, vector, joints_m),
            "denoise": denoise,
            "x0_joints": error_m.mean(),
            "reprojection": offset.mean(),
        }

    def _joints_m(self, vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 24 3"]:
        return joints_of(vector, self._body[0].to(vector.device))

    def _regression(self, features: Tensor, vector: Tensor, joints_m: Float[Tensor, "batch 24 3"]) -> Tensor:
        policy = self.policy
        estimate = policy.initial_estimate(features)
        target = (vector - policy.mean) / policy.std
        error_m = (self._joints_m(estimate * policy.std + policy.mean) - joints_m).abs().mean()
        return F.smooth_l1_loss(estimate, target) + 5.0 * error_m

    def _denoised(
        self, features: Float[Tensor, "batch features"], vector: Float[Tensor, "batch 157"]
    ) -> tuple[Float[Tensor, "batch times 157"], Float[Tensor, ""]]:
        """The predicted x_0 as raw vectors, and the denoising loss, at stratified random times."""
        policy, times = self.policy, self.times_per_image
        condition = policy.condition(features)
        x0 = ((vector - policy.mean) / policy.std)[:, None]
        strata = torch.arange(times, device=vector.device) + torch.rand(
            len(vector), times, device=vector.device
        )
        timesteps = (strata / times * policy.config.num_train_timesteps).long()
        noise = torch.randn(len(vector), times, x0.shape[-1], device=vector.device)
        noisy, target = policy.noisy_and_target(x0, timesteps, noise)
        predicted = policy.predict(noisy, timesteps, condition).float()
        alpha, sigma = policy.alpha_sigma(timesteps)
        clean = (alpha * noisy - sigma * predicted)[:, 0]
        return clean * policy.std + policy.mean, (predicted - target).square().mean()


class EncoderAndPoseLoss(PoseLoss):
    """All losses, from pixels, with augmentation in training."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        body: Body,
        weights: LossWeights,
        times_per_image: int,
        frozen_layers: Sequence[str] = (),
    ) -> None:
        """frozen_layers: names of the encoder's children that are not trained, batch statistics included.

        Raises ValueError if the encoder has no child of that name.
        """
        super().__init__(policy, body, weights, times_per_image)
        names = [name for name, _ in policy.encoder.named_children()]
        if unknown := [name for name in frozen_layers if name not in names]:
            raise ValueError(f"the encoder has no layer {unknown[0]!r} to freeze; it has {', '.join(names)}")
        # a tuple, which nn.Module does not register a second time
        self._frozen = tuple(policy.encoder.get_submodule(name) for name in frozen_layers)
        for layer in self._frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> EncoderAndPoseLoss:
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        crops: UInt8[Tensor, "batch side side 3"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
        visible: Bool[Tensor, "batch 24"],
        mask: UInt8[Tensor, "batch mask mask"],
    ) -> dict[str, Tensor]:
        named = {"vector": vector, "geometry": geometry, "keypoints": keypoints, "visible": visible}
        rows = as_floats({"crops": crops, "mask": mask, **named})
        if self.training:
            with torch.no_grad(), torch.autocast(crops.device.type, enabled=False):
                rows = augment(rows)
        output = self.policy.encoder(rows["crops"])
        features = self.policy.encoder_features(output, rows["geometry"])
        depths_m = self._joints_m(rows["vector"])[..., 2]
        terms = _encoder_terms(output, rows, depths_m) | self.pose_terms(
            features, rows["vector"], rows["geometry"], rows["keypoints"]
        )
        return weighted(terms, self.weights)


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The weighted sum as "loss", and each unweighted term for the log."""
    named = dataclasses.asdict(weights)
    loss = torch.stack([named[name] * term for name, term in terms.items()]).sum()
    return {"loss": loss, **{f"{name}_loss": term.detach() for name, term in terms.items()}}


def _encoder_terms(
    output: EncoderOutput, rows: dict[str, Tensor], depths_m: Float[Tensor, "batch 24"]
) -> dict[str, Tensor]:
    keypoints = rows["keypoints"]
    inside = (keypoints.abs() <= 1).all(dim=-1).float()
    return {
        "keypoints": _laplace_nll(output.keypoints - keypoints, output.log_sigma, inside),
        "depths": _laplace_nll((output.depth_m - depths_m)[..., None], output.depth_log_sigma, inside),
        "visible": F.binary_cross_entropy_with_logits(output.visible_logit, rows["visible"].float()),
        "mask": F.binary_cross_entropy_with_logits(output.mask_logit, rows["mask"]),
    }


def _laplace_nll(
    error: Float[Tensor, "batch 24 size"],
    log_sigma: Float[Tensor, "batch 24"],
    counted: Float[Tensor, "batch 24"],
) -> Float[Tensor, ""]:
    """Negative log likelihood under a Laplace distribution of standard deviation sigma, so of scale sigma / sqrt(2)."""
    scale = log_sigma.exp() / 2**0.5
    distance = error.abs().sum(dim=-1)
    # the last term keeps a gradient where sigma is large
    loss = distance / scale + error.shape[-1] * scale.log() + distance
    return (loss * counted).sum() / counted.sum().clamp_min(1)
