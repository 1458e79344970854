"""Mirror images of boxes and pose vectors, and the flip test: one pass over an image and its mirror image.

The reflection x -> -x maps a rotation R to M R M with M = diag(-1, 1, 1), and every left joint to its right one (flip
augmentation of HMR, arXiv 1712.06584, and SPIN). Betas do not change: the embedded body and SMPL's mean shapes are
symmetric within a few millimetres at the joints. The flip test is that of pose estimation (Newell et al., ECCV 2016,
arXiv 1603.06937): the joints of both images are averaged with weights 1 / sigma^2. The features of both images are
kept, so that the regression head can be applied to each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.policy.encoder import EncoderOutput, pack_joints
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.types import NUM_BETAS, NUM_JOINTS, OTHER_SIDE

__all__ = ["FlipFeatures", "flip_test", "mirror_box", "mirror_vector"]

_FLIP = torch.tensor([-1.0, 1.0])


@dataclass(frozen=True)
class FlipFeatures(EncoderOutput):
    mirror_vector: Float[Tensor, "batch channels"]  # as `vector`, for the mirror image and in its frame


def mirror_box(box: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """`hmr.policy.parametrization.box_features` of the mirrored crop in the mirrored photograph."""
    return box * torch.tensor([-1.0, 1.0, 1.0], device=box.device)


def flip_test(encoder: nn.Module, crops: Float[Tensor, "batch 3 side side"]) -> FlipFeatures:
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
    mirrored = (fused[0][:, OTHER_SIDE] * flip, *(values[:, OTHER_SIDE] for values in rest))
    return FlipFeatures(
        _with_joints(both.vector[:count], pack_joints(*fused)),
        *fused,
        (both.mask_logit[:count] + both.mask_logit[count:].flip(-1)) / 2,
        _with_joints(both.vector[count:], pack_joints(*mirrored)),
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


# signs of the first two columns of M R M, in the vector's order: rows of (column 1, column 2)
_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])


def mirror_vector(vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 157"]:
    """The vector (hmr.policy.parametrization) of the mirrored body in the mirrored crop."""
    rotations, betas, pelvis = vector.split([NUM_JOINTS * 6, NUM_BETAS, 3], dim=-1)
    columns = rotations.unflatten(-1, (NUM_JOINTS, 3, 2))[..., OTHER_SIDE, :, :] * _SIGNS.to(vector)
    mirrored = torch.cat([columns.flatten(-3), betas, pelvis * pelvis.new_tensor([1.0, -1.0, 1.0])], dim=-1)
    assert mirrored.shape[-1] == VECTOR_SIZE
    return mirrored
