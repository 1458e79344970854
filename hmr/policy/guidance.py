"""Guidance of the sampler by detected keypoints, joints and a mask, at inference, without training or ground truth.

As in score-guided human mesh recovery (ScoreHMR, Stathopoulos et al., CVPR 2024, arXiv 2403.09623): in the last steps
of the solver, the predicted x_0 moves along the gradient of an image cost through the body's joints and the camera.

| term       | cost of one hypothesis                                                                             |
|------------|----------------------------------------------------------------------------------------------------|
| keypoints  | sum_j w_j rho(|project(joint_j) - keypoint_j| / deviation_j),  w_j = confidence_j, rho(r) robust   |
| joints     | sum_j rho(|p_j - q_j| / joints_deviation_m), p and q the joints from the pelvis, of body and read  |
| silhouette | mean over points of the bones of their distance to the detected mask, in halves of the box         |
| prior      | |x_0 - x_0 predicted|^2 / 2, with standardised x_0: what is not detected does not move             |

deviation_j^2 = sigma_j^2 + floor^2: the detector's own estimate, and a floor, because a detected keypoint and a body's
joint differ by more than a confident detector predicts. rho is Geman and McClure's (1987), as in SMPLify (arXiv
1607.08128). A detection without 3D joints has no term on joints.

Left out of ScoreHMR: inversion of an initial estimate into noise (hypotheses start from noise here), the gradient
through the denoiser (one backward pass per step, for a policy designed for fast sampling), and the terms for several
views and for video. Left out of the silhouette term: that the body covers the mask, which needs surface points and a
soft rasteriser; bones inside the mask cost nothing.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from hmr.body.model import Body
from hmr.policy.parametrization import pelvis_from_crop, project, split
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import NUM_JOINTS, PARENTS, Box, Detection

__all__ = ["DetectionGuidance", "GuidanceConfig"]

BONE_SHARES = (0.25, 0.5, 0.75)  # points of the silhouette term on a bone, from parent to child
PROBE = 1e-2  # in standardised x_0: step of the finite difference for the curvature
MASK_SIDE = 64  # cells per side of the distance map over the mask's box


@dataclass(frozen=True)
class GuidanceConfig:
    """Chosen on `lab` scenes (`benchmarks/policy/guidance.py`), never on `wild-test`."""

    last_steps: int = 4  # of the solver; before them x_0 is too inaccurate to compare with an image
    iterations: int = 4  # gradient steps per solver step
    step: float = 1.0  # longest gradient step in standardised x_0
    keypoints: float = 1.0
    silhouette: float = 50.0
    joints: float = 0.0  # towards `Detection.joints_root_m`; the policy's own reading would add nothing
    prior: float = 0.1
    sigma_floor: float = 0.03  # of half the box: difference between detected keypoints and a body's joints
    joints_deviation_m: float = 0.1  # of the detection's 3D joints
    saturation: float = 4.0  # in deviations; beyond it a keypoint or joint is an outlier


class DetectionGuidance:
    """Guidance for a batch of images, each with its detection, in the order of `features`."""

    def __init__(
        self,
        policy: DiffusionPolicy,
        body: Body,
        features: Features,
        detections: Sequence[Detection],
        config: GuidanceConfig | None = None,
    ) -> None:
        if len(detections) != len(features):
            raise ValueError(f"{len(features)} images need as many detections, not {len(detections)}")
        self.policy, self.geometry = policy, features.geometry[:, None]
        self.body = body if body.faces.device == policy.device else _copy_to(body, policy.device)
        self.config = config or GuidanceConfig()
        half_px = self.geometry[..., 7:] / 2  # of the crop: 1 image 1
        stack = [[item.keypoints_px, item.keypoint_sigma_px, item.keypoint_visibility] for item in detections]
        keypoints, sigma, confidence = (
            torch.stack(column).to(half_px.device) for column in zip(*stack, strict=True)
        )
        self.keypoints_px = keypoints[:, None]
        self.weights = confidence[:, None]
        floor_px = self.config.sigma_floor * half_px
        self.deviation_px = (sigma[:, None].square() + floor_px.square()).sqrt()
        self.joints_m, self.joint_weights = (part.to(half_px.device) for part in _joints_of(detections))
        self.boxes = torch.tensor([_square(item.mask_box) for item in detections])
        self.boxes = self.boxes.to(half_px.device)[:, None, None]
        self.outside = torch.stack([_distance_outside(item.mask) for item in detections]).to(half_px.device)

    def guide(
        self, x0: Float[Tensor, "batch group dim"], steps_left: int
    ) -> Float[Tensor, "batch group dim"]:
        """x_0 after some gradient steps on the cost; unchanged before the last steps."""
        if steps_left >= self.config.last_steps:
            return x0
        guided = x0
        for _ in range(self.config.iterations):
            guided = self._descend(guided, x0)
        return guided

    def _descend(
        self, x0: Float[Tensor, "batch group dim"], predicted: Float[Tensor, "batch group dim"]
    ) -> Float[Tensor, "batch group dim"]:
        """One step along the gradient, to the minimum of the cost's Gauss-Newton parabola but at most `step` long. No
        fixed rate fits all parameters: the cost is a hundred times more sensitive to the pelvis than to the spine."""
        with torch.enable_grad():
            point = x0.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.cost(point, predicted).sum(), point)
        length = gradient.norm(dim=-1, keepdim=True)
        direction = gradient / length.clamp_min(1e-9)
        curvature = self._curvature(x0, direction)[..., None]
        return x0 - direction * (length / curvature).clamp_max(self.config.step)

    def _curvature(
        self, x0: Float[Tensor, "batch group dim"], direction: Float[Tensor, "batch group dim"]
    ) -> Float[Tensor, "batch group"]:
        """Second derivative of the cost along unit directions, without that of the projection (Gauss-Newton)."""
        config, (joints_m, pixels) = self.config, self._joints(x0)
        ahead_m, ahead_px = self._joints(x0 + PROBE * direction)
        speed = (ahead_px - pixels).square().sum(dim=-1) / PROBE**2 / self.deviation_px.square()
        weights = self.weights / (1 + self._ratio(pixels) / config.saturation**2).square()
        curvature = config.keypoints * (weights * speed).sum(dim=-1) + config.prior
        if config.joints:
            speed = (ahead_m - joints_m).square().sum(dim=-1) / (PROBE * config.joints_deviation_m) ** 2
            weights = self.joint_weights / (1 + self._ratio_3d(joints_m) / config.saturation**2).square()
            curvature = curvature + config.joints * (weights * speed).sum(dim=-1)
        return curvature

    def cost(
        self, x0: Float[Tensor, "batch group dim"], predicted: Float[Tensor, "batch group dim"]
    ) -> Float[Tensor, "batch group"]:
        """The cost of each hypothesis (see the module); `predicted` is the denoiser's x_0."""
        config, (joints_m, pixels) = self.config, self._joints(x0)
        cost = config.keypoints * (self.weights * self._robust(self._ratio(pixels))).sum(dim=-1) / 2
        if config.joints:
            robust = self._robust(self._ratio_3d(joints_m))
            cost = cost + config.joints * (self.joint_weights * robust).sum(dim=-1) / 2
        cost = cost + config.prior * (x0 - predicted).square().sum(dim=-1) / 2
        if config.silhouette:
            cost = cost + config.silhouette * self._outside_mask(pixels)
        return cost

    def _robust(self, ratio: Float[Tensor, "batch group 24"]) -> Float[Tensor, "batch group 24"]:
        return ratio / (1 + ratio / self.config.saturation**2)

    def _ratio(self, pixels: Float[Tensor, "batch group 24 2"]) -> Float[Tensor, "batch group 24"]:
        """Squared distance to the keypoints in squared deviations."""
        return (pixels - self.keypoints_px).square().sum(dim=-1) / self.deviation_px.square()

    def _ratio_3d(self, joints_m: Float[Tensor, "batch group 24 3"]) -> Float[Tensor, "batch group 24"]:
        """Squared distance to the detection's 3D joints in squared deviations."""
        return (joints_m - self.joints_m).square().sum(dim=-1) / self.config.joints_deviation_m**2

    def _joints(
        self, x0: Float[Tensor, "batch group dim"]
    ) -> tuple[Float[Tensor, "batch group 24 3"], Float[Tensor, "batch group 24 2"]]:
        """The joints of standardised vectors: relative to the pelvis in metres, and projected in pixels."""
        rotations, betas, pelvis = split(x0 * self.policy.std + self.policy.mean)
        joints = self.body.joints_from_matrices(rotations, betas)
        joints_m = joints - joints[..., :1, :]
        pelvis_cam_m = pelvis_from_crop(pelvis, self.geometry)
        return joints_m, project(joints_m + pelvis_cam_m[..., None, :], self.geometry)

    def _outside_mask(self, joints_px: Float[Tensor, "batch group 24 2"]) -> Float[Tensor, "batch group"]:
        """Mean distance of points of the bones to the mask, in halves of its box; gradients point inwards."""
        parents = joints_px[:, :, list(PARENTS[1:])]
        points = torch.cat([torch.lerp(parents, joints_px[:, :, 1:], share) for share in BONE_SHARES], dim=2)
        positions = (points - self.boxes[..., :2]) / (self.boxes[..., 2:] / 2)  # -1 to 1 over the mask's box
        distances = F.grid_sample(
            self.outside[:, None], positions, mode="bilinear", padding_mode="border", align_corners=False
        )
        return distances[:, 0].mean(dim=-1)


@functools.lru_cache(maxsize=1)
def _copy_to(body: Body, device: torch.device) -> Body:
    """A copy for all images: `Module.to` would move the caller's body, which is used on the CPU elsewhere."""
    return copy.deepcopy(body).to(device)


def _joints_of(
    detections: Sequence[Detection],
) -> tuple[Float[Tensor, "batch 1 24 3"], Float[Tensor, "batch 1 1"]]:
    """Root-relative 3D joints, and their weights: 0 for a detection without any."""
    found = [item.joints_root_m is not None for item in detections]
    joints_m = [
        torch.zeros(NUM_JOINTS, 3) if item.joints_root_m is None else item.joints_root_m
        for item in detections
    ]
    roots_m = torch.stack(joints_m)[:, None].float()
    return roots_m - roots_m[..., :1, :], torch.tensor(found)[:, None, None].float()


def _square(box: Box | None) -> tuple[float, float, float]:
    """Centre and side; of any square without a mask, whose distances are all zero."""
    return (0.0, 0.0, 1.0) if box is None else (*box.center, box.side)


def _distance_outside(mask: Float[np.ndarray, "size size"] | None) -> Float[Tensor, "side side"]:
    """Distance to the person's nearest pixel, over the mask's box, in halves of the box; zero without a person."""
    if mask is None or not (person := mask > 0.5).any():
        return torch.zeros(MASK_SIDE, MASK_SIDE)
    distance = torch.from_numpy(distance_transform_edt(~person)).float() * 2 / len(mask)
    return F.interpolate(distance[None, None], (MASK_SIDE, MASK_SIDE), mode="bilinear")[0, 0]
