"""Mirror images: of boxes, crops and pose vectors, and the flip test (an image and its mirror image, read together).

The reflection x -> -x takes a rotation R to M R M with M = diag(-1, 1, 1), and every left joint to its right one
(SPIN's and HMR's flip augmentation, arXiv 1712.06584). Betas stay: the embedded body and SMPL's mean shapes are nearly
symmetric (within a few millimetres at the joints). The flip test is that of pose estimation (Newell et al., ECCV 2016,
arXiv 1603.06937): joints are fused by their certainty, and the features of both images are kept, so that the regression
head can answer for both. The mirrored image gets the mirrored estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.policy.encoder import Seen, readable
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS

__all__ = ["OTHER_SIDE", "FlipFeatures", "flip_test", "mirror_box", "mirror_crop", "mirror_vector"]

_FLIP = torch.tensor([-1.0, 1.0])


@dataclass(frozen=True)
class FlipFeatures(Seen):
    mirror_vector: Float[Tensor, "batch channels"]  # like `vector`, of the mirror image and in its frame


def mirror_box(box: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
    """`hmr.policy.parametrization.box_features` of the mirrored crop in the mirrored photograph."""
    return box * torch.tensor([-1.0, 1.0, 1.0], device=box.device)


def flip_test(encoder: nn.Module, crops: Float[Tensor, "batch 3 side side"]) -> FlipFeatures:
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
    return FlipFeatures(
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


def _other_side(name: str) -> str:
    if name.startswith("left_"):
        return name.replace("left_", "right_", 1)
    return name.replace("right_", "left_", 1)


OTHER_SIDE = [JOINT_NAMES.index(_other_side(name)) for name in JOINT_NAMES]
# the first two columns of M R M, entry by entry, as the vector holds them: rows of (column 1, column 2)
_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])


def mirror_vector(vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 157"]:
    """The vector (hmr.policy.parametrization) of the mirrored body in the mirrored crop."""
    rotations, betas, seen = vector.split([NUM_JOINTS * 6, NUM_BETAS, 3], dim=-1)
    columns = rotations.unflatten(-1, (NUM_JOINTS, 3, 2))[..., OTHER_SIDE, :, :] * _SIGNS.to(vector)
    mirrored = torch.cat([columns.flatten(-3), betas, seen * seen.new_tensor([1.0, -1.0, 1.0])], dim=-1)
    assert mirrored.shape[-1] == VECTOR_SIZE
    return mirrored


def mirror_crop(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row of `hmr.pretraining.crop_cache.CropDataset`, mirrored."""
    focal, cx, cy, width, height, crop_x, crop_y, side = row["geometry"]
    return {
        "crops": row["crops"].flip(1),
        "vector": mirror_vector(row["vector"]),
        "geometry": torch.stack([focal, width - cx, cy, width, height, width - crop_x, crop_y, side]),
        "keypoints": row["keypoints"][OTHER_SIDE] * torch.tensor([-1.0, 1.0]),
        "visible": row["visible"][OTHER_SIDE],
        "mask": row["mask"].flip(1),
    }
