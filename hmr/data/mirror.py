"""The mirrored twin of a training crop: left becomes right in the picture, the keypoints and the body alike.

The reflection x -> -x takes a rotation R to M R M with M = diag(-1, 1, 1), and every left joint to its right one
(SPIN's and HMR's flip augmentation, arXiv 1712.06584). Betas stay: the embedded body and SMPL's mean shapes are as good
as symmetric (within a few millimetres at the joints).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hmr.parametrization import VECTOR_SIZE
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS

__all__ = ["OTHER_SIDE", "mirror_crop", "mirror_vector"]


def _other_side(name: str) -> str:
    if name.startswith("left_"):
        return name.replace("left_", "right_", 1)
    return name.replace("right_", "left_", 1)


OTHER_SIDE = [JOINT_NAMES.index(_other_side(name)) for name in JOINT_NAMES]
# the first two columns of M R M, entry by entry, as the vector holds them: rows of (column 1, column 2)
_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])


def mirror_vector(vector: Float[Tensor, "*batch 157"]) -> Float[Tensor, "*batch 157"]:
    """The vector (hmr.parametrization) of the mirrored body in the mirrored crop."""
    rotations, betas, seen = vector.split([NUM_JOINTS * 6, NUM_BETAS, 3], dim=-1)
    columns = rotations.unflatten(-1, (NUM_JOINTS, 3, 2))[..., OTHER_SIDE, :, :] * _SIGNS.to(vector)
    mirrored = torch.cat([columns.flatten(-3), betas, seen * seen.new_tensor([1.0, -1.0, 1.0])], dim=-1)
    assert mirrored.shape[-1] == VECTOR_SIZE
    return mirrored


def mirror_crop(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row of `hmr.data.crops.CropDataset`, mirrored."""
    focal, cx, cy, width, height, crop_x, crop_y, side = row["geometry"]
    return {
        "crops": row["crops"].flip(1),
        "vector": mirror_vector(row["vector"]),
        "geometry": torch.stack([focal, width - cx, cy, width, height, width - crop_x, crop_y, side]),
        "keypoints": row["keypoints"][OTHER_SIDE] * torch.tensor([-1.0, 1.0]),
        "visible": row["visible"][OTHER_SIDE],
        "mask": row["mask"].flip(1),
    }
