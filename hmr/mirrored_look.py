"""A crop and its mirror image, seen together: what a network says of both is better than what it says of either.

The flip test of pose estimation (Newell et al., ECCV 2016, arXiv 1603.06937, and most since). Joints are fused by
their certainty; each look keeps its own features beside the fused joints, so that the regression head can answer for
both (`DiffusionPolicy.guess`). Left and right are seen alike: the mirrored photograph gets the mirrored guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.data.mirror import OTHER_SIDE
from hmr.encoder import Seen, readable

__all__ = ["SeenTwice", "look_twice", "mirror_box"]

_FLIP = torch.tensor([-1.0, 1.0])


@dataclass(frozen=True)
class SeenTwice(Seen):
    mirror_vector: Float[Tensor, "batch channels"]  # like `vector`, of the mirror image and in its frame


def mirror_box(box: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """`hmr.parametrization.box_features` of the mirrored crop in the mirrored photograph."""
    return box * torch.tensor([-1.0, 1.0, 1.0], device=box.device)


def look_twice(encoder: nn.Module, crops: Float[Tensor, "batch 3 side side"]) -> SeenTwice:
    """One pass of the encoder over the crops and their mirror images."""
    count = len(crops)
    both: Seen = encoder(torch.cat([crops, crops.flip(-1)]))
    flip = _FLIP.to(crops.device)

    def pair(told: Float[Tensor, "two_batches 24"]) -> Float[Tensor, "2 batch 24"]:
        return torch.stack([told[:count], told[count:][:, OTHER_SIDE]])

    keypoints = torch.stack([both.keypoints[:count], both.keypoints[count:][:, OTHER_SIDE] * flip])
    log_sigma, depth_log_sigma = pair(both.log_sigma), pair(both.depth_log_sigma)
    share, depth_share = (-2 * log_sigma).softmax(dim=0), (-2 * depth_log_sigma).softmax(dim=0)
    rest = (  # certainty is 1 / sigma^2
        _fused_sigma(share, log_sigma),
        (share * pair(both.visible_logit)).sum(dim=0),
        (depth_share * pair(both.depth_m)).sum(dim=0),
        _fused_sigma(depth_share, depth_log_sigma),
    )
    fused = ((share[..., None] * keypoints).sum(dim=0), *rest)
    mirrored = (fused[0][:, OTHER_SIDE] * flip, *(told[:, OTHER_SIDE] for told in rest))
    return SeenTwice(
        _with_told(both.vector[:count], readable(*fused)),
        *fused,
        (both.mask_logit[:count] + both.mask_logit[count:].flip(-1)) / 2,
        _with_told(both.vector[count:], readable(*mirrored)),
    )


def _fused_sigma(
    share: Float[Tensor, "2 batch 24"], log_sigma: Float[Tensor, "2 batch 24"]
) -> Float[Tensor, "batch 24"]:
    """As wide as a single reading's: two looks share their mistakes."""
    return (share * (2 * log_sigma).exp()).sum(dim=0).log() / 2


def _with_told(
    vector: Float[Tensor, "batch channels"], told: Float[Tensor, "batch numbers"]
) -> Float[Tensor, "batch channels"]:
    return torch.cat([vector[:, : -told.shape[1]], told], dim=-1)
