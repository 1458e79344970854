"""The flip test of pose estimation (Newell et al., ECCV 2016, arXiv 1603.06937): one pass of an encoder over an image
and its mirror image, whose joints are averaged with weights 1 / sigma^2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.detection.encoder import EncoderOutput, pack_joints
from hmr.types import OTHER_SIDE

__all__ = ["flip_test"]

_FLIP = torch.tensor([-1.0, 1.0])


def flip_test(encoder: nn.Module, crops: Float[Tensor, "batch 3 side side"]) -> EncoderOutput:
    """The encoder's output for the crops, fused with that for their mirror images, in one pass."""
    count = len(crops)
    both: EncoderOutput = encoder(torch.cat([crops, crops.flip(-1)]))
    flip = _FLIP.to(crops.device)

    def pair(values: Float[Tensor, "two_batches 24"]) -> Float[Tensor, "2 batch 24"]:
        return torch.stack([values[:count], values[count:][:, OTHER_SIDE]])

    keypoints = torch.stack([both.keypoints[:count], both.keypoints[count:][:, OTHER_SIDE] * flip])
    log_sigma, depth_log_sigma = pair(both.log_sigma), pair(both.depth_log_sigma)
    weight, depth_weight = (-2 * log_sigma).softmax(dim=0), (-2 * depth_log_sigma).softmax(dim=0)
    rest = (
        _fused_sigma(weight, log_sigma),
        (weight * pair(both.visible_logit)).sum(dim=0),
        (depth_weight * pair(both.depth_m)).sum(dim=0),
        _fused_sigma(depth_weight, depth_log_sigma),
    )
    fused = ((weight[..., None] * keypoints).sum(dim=0), *rest)
    return EncoderOutput(
        _with_joints(both.vector[:count], pack_joints(*fused)),
        *fused,
        (both.mask_logit[:count] + both.mask_logit[count:].flip(-1)) / 2,
    )


def _fused_sigma(
    weight: Float[Tensor, "2 batch 24"], log_sigma: Float[Tensor, "2 batch 24"]
) -> Float[Tensor, "batch 24"]:
    """Log of the root mean variance. Averaging does not reduce it: the errors of both passes are correlated."""
    return (weight * (2 * log_sigma).exp()).sum(dim=0).log() / 2


def _with_joints(
    vector: Float[Tensor, "batch channels"], joints: Float[Tensor, "batch numbers"]
) -> Float[Tensor, "batch channels"]:
    return torch.cat([vector[:, : -joints.shape[1]], joints], dim=-1)
