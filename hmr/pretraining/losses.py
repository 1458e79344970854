"""The losses of pretraining: seeing (the encoder's heads) and posing (the regression head and the denoiser).

| term          | what is compared                                              | weight                  |
|---------------|---------------------------------------------------------------|-------------------------|
| denoise       | v_theta and v_t, mean over K times (hmr.policy.policy)               | `denoise`               |
| x0 joints     | joints of the predicted x_0, metres                           | `x0_joints`             |
| reprojection  | those joints through the estimated camera, crop units         | `reprojection`          |
| keypoints     | Laplace likelihood of the 2D joints inside the crop           | `keypoints`             |
| depths        | the same of their depths behind the pelvis, metres            | `depths`                |
| visible, mask | binary cross-entropy                                          | `visible`, `mask`       |
| regression    | smooth L1 on the vector, L1 on its joints                     | `regression`            |

The terms on x_0 count alike at all times: at high noise x_0 is the middle of many poses, and hypothesis 0 and the
averaged pose begin there. A middle in parameters is not one in joints, which is what the regression head is taught.

Truth was seen through the true camera; reprojecting through the estimated one teaches the policy to lie on the person
where everything downstream will look.

Both stages of `hmr.pretraining.training` minimise them: `EncoderAndPoseLoss` from pixels, `Pose` from features seen before.
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
from hmr.policy.encoder import Seen
from hmr.policy.parametrization import pelvis_from_seen, project, split
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.augmentation import as_floats, augment

__all__ = ["EncoderAndPoseLoss", "LossWeights", "Pose", "joints_of"]


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


FARTHEST = 2.0  # crop units: beyond it a reprojected joint is lost, and how far no longer matters


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
    """Where the joints of raw vectors appear in the crop (-1 to 1 from border to border) under the estimated camera."""
    points_cam_m = joints_m + pelvis_from_seen(split(vector)[2], geometry)[..., None, :]
    center, side = geometry[..., None, 5:7], geometry[..., None, 7:]
    return (project(points_cam_m, geometry) - center) * 2 / side


class Pose(nn.Module):
    """The posing losses of a policy on seen features, as the module that transformers.Trainer expects."""

    def __init__(
        self, policy: DiffusionPolicy, body: Body, weights: LossWeights, times_per_image: int
    ) -> None:
        super().__init__()
        self.policy, self.weights, self.times_per_image = policy, weights, times_per_image
        self._body = [body]  # a list hides it from the state dict: the body is data, not weights

    def forward(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        return weighted(self.posing_terms(features, vector, geometry, keypoints), self.weights)

    def posing_terms(
        self,
        features: Float[Tensor, "batch features"],
        vector: Float[Tensor, "batch 157"],
        geometry: Float[Tensor, "batch 8"],
        keypoints: Float[Tensor, "batch 24 2"],
    ) -> dict[str, Tensor]:
        """Regression and diffusion on what was seen, whether just now or long ago."""
        joints_m = self._joints_m(vector)
        clean, denoise = self._denoised(features, vector)
        clean_joints_m = self._joints_m(clean)
        error_m = (clean_joints_m - joints_m[:, None]).abs()
        seen = reproject(clean, clean_joints_m, geometry[:, None])
        off = (seen - keypoints[:, None]).abs().clamp_max(FARTHEST)
        return {
            "regression": self._regression(features, vector, joints_m),
            "denoise": denoise,
            "x0_joints": error_m.mean(),
            "reprojection": off.mean(),
        }

    def _joints_m(self, vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 24 3"]:
        return joints_of(vector, self._body[0].to(vector.device))

    def _regression(self, features: Tensor, vector: Tensor, joints_m: Float[Tensor, "batch 24 3"]) -> Tensor:
        policy = self.policy
        guess = policy.initial_estimate(features)
        standard = (vector - policy.mean) / policy.std
        error_m = (self._joints_m(guess * policy.std + policy.mean) - joints_m).abs().mean()
        return F.smooth_l1_loss(guess, standard) + 5.0 * error_m

    def _denoised(
        self, features: Float[Tensor, "batch features"], vector: Float[Tensor, "batch 157"]
    ) -> tuple[Float[Tensor, "batch times 157"], Float[Tensor, ""]]:
        """The predicted x_0 as raw vectors, and the denoising loss, at stratified times."""
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
        signal, spread = policy.alpha_sigma(timesteps)
        clean = (signal * noisy - spread * predicted)[:, 0]
        return clean * policy.std + policy.mean, (predicted - target).square().mean()


class EncoderAndPoseLoss(Pose):
    """All losses, from pixels."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        body: Body,
        weights: LossWeights,
        times_per_image: int,
        resting: Sequence[str] = (),
    ) -> None:
        """`resting`: names of the encoder's parts that see as they did before, batch statistics included.

        Raises ValueError for a part that this encoder has not.
        """
        super().__init__(policy, body, weights, times_per_image)
        parts = [name for name, _ in policy.encoder.named_children()]
        if unknown := [name for name in resting if name not in parts]:
            raise ValueError(f"the encoder has no part {unknown[0]!r} to rest; it has {', '.join(parts)}")
        self._resting = [[policy.encoder.get_submodule(name)] for name in resting]
        for (part,) in self._resting:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> EncoderAndPoseLoss:
        super().train(mode)
        for (part,) in self._resting:
            part.eval()
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
        seen = self.policy.encoder(rows["crops"])
        features = self.policy.seen_features(seen, rows["geometry"])
        depths_m = self._joints_m(rows["vector"])[..., 2]
        terms = _seeing_terms(seen, rows, depths_m) | self.posing_terms(
            features, rows["vector"], rows["geometry"], rows["keypoints"]
        )
        return weighted(terms, self.weights)


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The sum that is minimised, and each term for the log."""
    named = dataclasses.asdict(weights)
    loss = torch.stack([named[name] * term for name, term in terms.items()]).sum()
    return {"loss": loss, **{f"{name}_loss": term.detach() for name, term in terms.items()}}


def _seeing_terms(
    seen: Seen, rows: dict[str, Tensor], depths_m: Float[Tensor, "batch 24"]
) -> dict[str, Tensor]:
    keypoints = rows["keypoints"]
    inside = (keypoints.abs() <= 1).all(dim=-1).float()
    return {
        "keypoints": _unlikeliness(seen.keypoints - keypoints, seen.log_sigma, inside),
        "depths": _unlikeliness((seen.depth_m - depths_m)[..., None], seen.depth_log_sigma, inside),
        "visible": F.binary_cross_entropy_with_logits(seen.visible_logit, rows["visible"].float()),
        "mask": F.binary_cross_entropy_with_logits(seen.mask_logit, rows["mask"]),
    }


def _unlikeliness(
    error: Float[Tensor, "batch 24 size"],
    log_sigma: Float[Tensor, "batch 24"],
    counted: Float[Tensor, "batch 24"],
) -> Float[Tensor, ""]:
    """Of a Laplace distribution whose standard deviation a coordinate is sigma, which has the scale sigma / sqrt(2)."""
    scale = log_sigma.exp() / 2**0.5
    distance = error.abs().sum(dim=-1)
    loss = (
        distance / scale + error.shape[-1] * scale.log() + distance
    )  # the last keeps a floor under the gradient
    return (loss * counted).sum() / counted.sum().clamp_min(1)
