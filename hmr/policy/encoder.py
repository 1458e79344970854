"""The embedded image encoder: a square crop of one person -> what was seen, as one vector and three readable heads.

A small residual network (He et al., CVPR 2016, arXiv 1512.03385) with a two-level feature pyramid. The heads are
the policy's eyes and, through `hmr.detection.embedded.EmbeddedDetector`, the critic's: 24 joints by soft-argmax over a volume
(integral regression, Sun et al., ECCV 2018, arXiv 1711.08229): where in the crop and how far behind the pelvis, each
with a standard deviation of its own (after Kendall and Gal, NeurIPS 2017), a probability that it is seen, and the
person's mask. Each joint also pools the pyramid where it was found (part attention, PARE, arXiv 2104.08527), so that
the policy can tell a bent arm from a hidden one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.types import NUM_JOINTS

__all__ = ["CropEncoder", "EncoderHeads", "JointReadings", "Seen", "read_joints", "readable"]

READABLE = 6  # numbers a joint at the end of what was seen, in the order of `JointReadings`
DEPTHS, DEEPEST_M = 16, 1.25  # layers of the volume, and how far before and behind the pelvis it reaches


@dataclass(frozen=True)
class Seen:
    """The encoder's answer for a batch of crops; positions in crop units, -1 to 1 from border to border."""

    vector: Float[Tensor, "batch channels"]
    keypoints: Float[Tensor, "batch 24 2"]
    log_sigma: Float[Tensor, "batch 24"]  # natural log of the standard deviation a coordinate, crop units
    visible_logit: Float[Tensor, "batch 24"]
    depth_m: Float[Tensor, "batch 24"]  # behind the pelvis, along the camera's axis
    depth_log_sigma: Float[Tensor, "batch 24"]  # natural log of its standard deviation, metres
    mask_logit: Float[Tensor, "batch side side"]


@dataclass(frozen=True)
class JointReadings:
    """What `Seen.vector` says of the joints, as plain numbers."""

    keypoints: Float[Tensor, "*batch 24 2"]  # crop units
    sigma: Float[Tensor, "*batch 24"]  # crop units
    visible: Float[Tensor, "*batch 24"]  # probability
    depth_m: Float[Tensor, "*batch 24"]
    depth_sigma_m: Float[Tensor, "*batch 24"]


def read_joints(vector: Float[Tensor, "*batch channels"]) -> JointReadings:
    """The end of `Seen.vector`."""
    told = vector[..., -NUM_JOINTS * READABLE :].unflatten(-1, (NUM_JOINTS, READABLE))
    return JointReadings(told[..., :2], told[..., 2].exp(), told[..., 3], told[..., 4], told[..., 5].exp())


def readable(
    keypoints: Float[Tensor, "batch 24 2"],
    log_sigma: Float[Tensor, "batch 24"],
    visible_logit: Float[Tensor, "batch 24"],
    depth_m: Float[Tensor, "batch 24"],
    depth_log_sigma: Float[Tensor, "batch 24"],
) -> Float[Tensor, "batch 144"]:
    """What `read_joints` reads."""
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
    """The readable heads over a feature pyramid; an encoder makes the pyramid and inherits them."""

    def _add_heads(self, pooled: int, pyramid: int, detail: int, part_channels: int) -> None:
        """Channels of the pooled feature, of the grid that joints are found on, and of the finer one for the mask."""
        self.heatmap = nn.Conv2d(pyramid, NUM_JOINTS * DEPTHS, 1)
        self.part = nn.Linear(pyramid, part_channels)
        self.certainty = nn.Linear(pooled + pyramid, 3)
        self.mask = nn.Conv2d(detail, 1, 1)
        self.pooled_size = pooled
        self.vector_size = pooled + NUM_JOINTS * (part_channels + READABLE)

    def _read(
        self,
        pooled: Float[Tensor, "batch c"],
        pyramid: Float[Tensor, "batch c2 h w"],
        detail: Float[Tensor, "batch c3 h2 w2"],
    ) -> Seen:
        keypoints, depth_m, parts = self._joints(pyramid)
        shared = pooled[:, None].expand(-1, NUM_JOINTS, -1)
        certainty = self.certainty(torch.cat([shared, parts], dim=-1)).float()
        log_sigma, depth_log_sigma = certainty[..., ::2].clamp(-5.0, 1.0).unbind(-1)
        told = (keypoints, log_sigma, certainty[..., 1], depth_m, depth_log_sigma)
        vector = torch.cat([pooled.float(), self.part(parts).float().flatten(1), readable(*told)], dim=-1)
        return Seen(vector, *told, self.mask(detail)[:, 0].float())

    def _joints(
        self, pyramid: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch 24 2"], Float[Tensor, "batch 24"], Float[Tensor, "batch 24 c"]]:
        """Soft-argmax in the crop and in depth (m), and the pyramid pooled under each joint's attention."""
        volume = self.heatmap(pyramid).float().flatten(2).unflatten(1, (NUM_JOINTS, DEPTHS))
        volume = volume.flatten(2).softmax(dim=-1).unflatten(-1, (DEPTHS, -1))
        attention = volume.sum(dim=2)
        depth_m = volume.sum(dim=3) @ _middles(DEPTHS, pyramid.device) * DEEPEST_M
        ys, xs = torch.meshgrid(
            *(_middles(side, pyramid.device) for side in pyramid.shape[-2:]), indexing="ij"
        )
        grid = torch.stack([xs.flatten(), ys.flatten()], dim=-1)
        parts = torch.einsum("bjp,bcp->bjc", attention.to(pyramid.dtype), pyramid.flatten(2))
        return attention @ grid, depth_m, parts


def _middles(cells: int, device: torch.device) -> Float[Tensor, "{cells}"]:
    """Of so many cells from -1 to 1."""
    return (torch.arange(cells, device=device) + 0.5) / cells * 2 - 1


class CropEncoder(EncoderHeads):
    """`widths` are the channels at 1/4, 1/8 and 1/16 of the crop's side."""

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

    def forward(self, crops: Float[Tensor, "batch 3 side side"]) -> Seen:
        """`crops`: RGB, 0 to 1, any side divisible by 16."""
        fine = self.fine(self.stem((crops - 0.45) / 0.25))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        pyramid = F.interpolate(self.lateral_coarse(coarse), scale_factor=2.0, mode="nearest")
        pyramid = self.merge_middle(pyramid + self.lateral_middle(middle))
        detail = F.interpolate(self.to_fine(pyramid), scale_factor=2.0, mode="nearest")
        detail = self.merge_fine(detail + self.lateral_fine(fine))
        return self._read(coarse.mean(dim=(2, 3)), pyramid, detail)
