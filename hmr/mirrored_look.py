"""A crop and its mirror image, seen together: what a network says of both is better than what it says of either.

The flip test of pose estimation (Newell et al., ECCV 2016, arXiv 1603.06937, and most since). Keypoints are fused by
their certainty; each look keeps its own features beside the fused keypoints, so that the regression head can answer for
both (`DiffusionPolicy.guess`). Left and right are seen alike: the mirrored photograph gets the mirrored guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.data.mirror import OTHER_SIDE
from hmr.encoder import READABLE, Seen, readable
from hmr.types import NUM_JOINTS

__all__ = ["SeenTwice", "look_twice", "mirror_box"]

READABLE_SIZE = NUM_JOINTS * READABLE
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
    keypoints = torch.stack([both.keypoints[:count], both.keypoints[count:][:, OTHER_SIDE] * flip])
    log_sigma = torch.stack([both.log_sigma[:count], both.log_sigma[count:][:, OTHER_SIDE]])
    visible = torch.stack([both.visible_logit[:count], both.visible_logit[count:][:, OTHER_SIDE]])
    share = (-2 * log_sigma).softmax(dim=0)  # certainty is 1 / sigma^2
    fused = (
        (share[..., None] * keypoints).sum(dim=0),
        (share * (2 * log_sigma).exp()).sum(dim=0).log() / 2,
        (share * visible).sum(dim=0),
    )
    mirrored = (fused[0][:, OTHER_SIDE] * flip, fused[1][:, OTHER_SIDE], fused[2][:, OTHER_SIDE])
    return SeenTwice(
        _with_readable(both.vector[:count], *fused),
        *fused,
        (both.mask_logit[:count] + both.mask_logit[count:].flip(-1)) / 2,
        _with_readable(both.vector[count:], *mirrored),
    )


def _with_readable(
    vector: Float[Tensor, "batch channels"],
    keypoints: Float[Tensor, "batch 24 2"],
    log_sigma: Float[Tensor, "batch 24"],
    visible_logit: Float[Tensor, "batch 24"],
) -> Float[Tensor, "batch channels"]:
    return torch.cat([vector[:, :-READABLE_SIZE], readable(keypoints, log_sigma, visible_logit)], dim=-1)
