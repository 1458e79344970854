"""The embedded image encoder: a square crop of one person -> one feature vector, joints and a mask.

A small residual network (He et al., CVPR 2016, arXiv 1512.03385) with a two-level feature pyramid. The policy and,
through `hmr.detection.embedded.EmbeddedDetector`, the critic use its heads: the person's mask, and 24 joints by
soft-argmax over a volume (integral regression, Sun et al., ECCV 2018, arXiv 1711.08229). A joint has a position in the
crop and a depth relative to the pelvis, each with its own standard deviation (after Kendall and Gal, NeurIPS 2017), and
a probability of being visible. Each joint also pools the pyramid at its position (part attention, PARE, arXiv
2104.08527), which separates a bent arm from a hidden one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.types import NUM_JOINTS

__all__ = ["CropEncoder", "EncoderHeads", "EncoderOutput", "JointEstimates", "pack_joints", "unpack_joints"]

NUMBERS_PER_JOINT = 6  # at the end of the feature vector, in the order of `JointEstimates`
DEPTHS, DEEPEST_M = 16, 1.25  # layers of the volume; how far it extends before and behind the pelvis


@dataclass(frozen=True)
class EncoderOutput:
    """The encoder's output for a batch of crops. Positions are in crop units: -1 to 1 from border to border."""

    vector: Float[Tensor, "batch channels"]
    keypoints: Float[Tensor, "batch 24 2"]
    log_sigma: Float[Tensor, "batch 24"]  # natural log of the standard deviation per coordinate, crop units
    visible_logit: Float[Tensor, "batch 24"]
    depth_m: Float[Tensor, "batch 24"]  # behind the pelvis, along the camera's axis
    depth_log_sigma: Float[Tensor, "batch 24"]  # natural log of its standard deviation, metres
    mask_logit: Float[Tensor, "batch side side"]


@dataclass(frozen=True)
class JointEstimates:
    """The joints in `EncoderOutput.vector`."""

    keypoints: Float[Tensor, "*batch 24 2"]  # crop units
    sigma: Float[Tensor, "*batch 24"]  # crop units
    visible: Float[Tensor, "*batch 24"]  # probability
    depth_m: Float[Tensor, "*batch 24"]
    depth_sigma_m: Float[Tensor, "*batch 24"]


def unpack_joints(vector: Float[Tensor, "*batch channels"]) -> JointEstimates:
    """Read the joints from the end of `EncoderOutput.vector`."""
    numbers = vector[..., -NUM_JOINTS * NUMBERS_PER_JOINT :].unflatten(-1, (NUM_JOINTS, NUMBERS_PER_JOINT))
    log_sigma, visible, depth_m, depth_log_sigma = numbers[..., 2:].unbind(-1)
    return JointEstimates(numbers[..., :2], log_sigma.exp(), visible, depth_m, depth_log_sigma.exp())


def pack_joints(
    keypoints: Float[Tensor, "batch 24 2"],
    log_sigma: Float[Tensor, "batch 24"],
    visible_logit: Float[Tensor, "batch 24"],
    depth_m: Float[Tensor, "batch 24"],
    depth_log_sigma: Float[Tensor, "batch 24"],
) -> Float[Tensor, "batch 144"]:
    """The inverse of `unpack_joints`."""
    rest = torch.stack([log_sigma, visible_logit.sigmoid(), depth_m, depth_log_sigma], dim=-1)
    return torch.cat([keypoints, rest], dim=-1).flatten(1)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        return F.relu(self.body(features) + self.skip(features))


class EncoderHeads(nn.Module):
    """Heads for joints and mask over a feature pyramid; an encoder computes the pyramid and inherits them."""

    def _add_heads(self, pooled: int, pyramid: int, detail: int, part_channels: int) -> None:
        """Channels of the pooled feature, of the grid for the joints, and of the finer grid for the mask."""
        self.heatmap = nn.Conv2d(pyramid, NUM_JOINTS * DEPTHS, 1)
        self.part = nn.Linear(pyramid, part_channels)
        self.certainty = nn.Linear(pooled + pyramid, 3)
        self.mask = nn.Conv2d(detail, 1, 1)
        self.pooled_size = pooled
        self.vector_size = pooled + NUM_JOINTS * (part_channels + NUMBERS_PER_JOINT)

    def _apply_heads(
        self,
        pooled: Float[Tensor, "batch c"],
        pyramid: Float[Tensor, "batch c2 h w"],
        detail: Float[Tensor, "batch c3 h2 w2"],
    ) -> EncoderOutput:
        keypoints, depth_m, parts = self._joints(pyramid)
        shared = pooled[:, None].expand(-1, NUM_JOINTS, -1)
        certainty = self.certainty(torch.cat([shared, parts], dim=-1)).float()
        log_sigma, depth_log_sigma = certainty[..., ::2].clamp(-5.0, 1.0).unbind(-1)
        joints = (keypoints, log_sigma, certainty[..., 1], depth_m, depth_log_sigma)
        part_features = self.part(parts).float().flatten(1)
        vector = torch.cat([pooled.float(), part_features, pack_joints(*joints)], dim=-1)
        return EncoderOutput(vector, *joints, self.mask(detail)[:, 0].float())

    def _joints(
        self, pyramid: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch 24 2"], Float[Tensor, "batch 24"], Float[Tensor, "batch 24 c"]]:
        """Soft-argmax in the crop and in depth (m), and the pyramid pooled with each joint's attention."""
        volume = self.heatmap(pyramid).float().flatten(2).unflatten(1, (NUM_JOINTS, DEPTHS))
        volume = volume.flatten(2).softmax(dim=-1).unflatten(-1, (DEPTHS, -1))
        attention = volume.sum(dim=2)
        depth_m = volume.sum(dim=3) @ _cell_centers(DEPTHS, pyramid.device) * DEEPEST_M
        ys, xs = torch.meshgrid(
            *(_cell_centers(side, pyramid.device) for side in pyramid.shape[-2:]), indexing="ij"
        )
        grid = torch.stack([xs.flatten(), ys.flatten()], dim=-1)
        parts = torch.einsum("bjp,bcp->bjc", attention.to(pyramid.dtype), pyramid.flatten(2))
        return attention @ grid, depth_m, parts


def _cell_centers(cells: int, device: torch.device) -> Float[Tensor, "{cells}"]:
    """Centres of `cells` equal cells between -1 and 1."""
    return (torch.arange(cells, device=device) + 0.5) / cells * 2 - 1


class CropEncoder(EncoderHeads):
    """`widths`: channels at 1/4, 1/8 and 1/16 of the crop's side."""

    def __init__(self, widths: tuple[int, int, int], pyramid: int = 96, part_channels: int = 16) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, fine // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(fine // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(fine // 2, fine, 3, 2, 1, bias=False),
            nn.BatchNorm2d(fine),
            nn.ReLU(inplace=True),
        )
        self.fine = nn.Sequential(ResidualBlock(fine, fine), ResidualBlock(fine, fine))
        self.middle = nn.Sequential(ResidualBlock(fine, middle, 2), ResidualBlock(middle, middle))
        self.coarse = nn.Sequential(
            ResidualBlock(middle, coarse, 2), ResidualBlock(coarse, coarse), ResidualBlock(coarse, coarse)
        )
        self.lateral_coarse = nn.Conv2d(coarse, pyramid, 1)
        self.lateral_middle = nn.Conv2d(middle, pyramid, 1)
        self.lateral_fine = nn.Conv2d(fine, pyramid // 2, 1)
        self.merge_middle = nn.Sequential(
            nn.Conv2d(pyramid, pyramid, 3, 1, 1, bias=False), nn.BatchNorm2d(pyramid), nn.ReLU(inplace=True)
        )
        self.to_fine = nn.Conv2d(pyramid, pyramid // 2, 1)
        self.merge_fine = nn.Sequential(
            nn.Conv2d(pyramid // 2, pyramid // 2, 3, 1, 1, bias=False),
            nn.BatchNorm2d(pyramid // 2),
            nn.ReLU(inplace=True),
        )
        self._add_heads(coarse, pyramid, pyramid // 2, part_channels)

    def forward(self, crops: Float[Tensor, "batch 3 side side"]) -> EncoderOutput:
        """`crops`: RGB, 0 to 1, any side divisible by 16."""
        fine = self.fine(self.stem((crops - 0.45) / 0.25))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        pyramid = F.interpolate(self.lateral_coarse(coarse), scale_factor=2.0, mode="nearest")
        pyramid = self.merge_middle(pyramid + self.lateral_middle(middle))
        detail = F.interpolate(self.to_fine(pyramid), scale_factor=2.0, mode="nearest")
        detail = self.merge_fine(detail + self.lateral_fine(fine))
        return self._apply_heads(coarse.mean(dim=(2, 3)), pyramid, detail)
