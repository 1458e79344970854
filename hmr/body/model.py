"""Body models: smplx's SMPL, SMPL-H and SMPL-X with one interface, posed by `hmr.types.BodyParams`.

`load_body()` loads the default body (`hmr/assets/body.npz`, baked from CC0 assets), `load_body(path)` a licensed one.
smplx builds the model. Its forward functions differ between models (SMPL-X's accepts only files that it unpickles
itself), so linear blend skinning is implemented here, and the tests compare it with smplx's:

    x = sum_j w_vj (R_j (t_v + S_v beta + P_v (R - I)) + p_j)       Loper et al., SIGGRAPH Asia 2015, eq. 2-9
    t, S, P    template, shape directions, pose directions;  w skin weights;  R_j, p_j world transform of
    joint j

Left out: hand poses, jaw, eyes and expressions. Hands of SMPL-H and SMPL-X stay flat; the first 21 joints of
`body_pose` move them, and the two hand joints are at the base of the middle finger.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import roma
import smplx
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from common.reading.array_files import read_arrays
from common.reading.validate import fits_float32
from common.seeding import one_thread
from common.storage.files import PathLike
from common.storage.fingerprint import file_digest, weights_digest
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS, BodyParams, Posed

__all__ = ["EMBEDDED_BODY", "REGIONS", "Body", "body_fingerprint", "load_body"]

MAX_EXTENT_M = 10.0  # a template in centimetres has an extent of about 170
EMBEDDED_BODY = Path(__file__).parents[1] / "assets" / "body.npz"
_AXES = {
    "v_template": 2, "f": 2, "weights": 2, "shapedirs": 3, "posedirs": 3, "J_regressor": 2, "kintree_table": 2,
}  # fmt: skip
ARRAYS = tuple(_AXES)

REGIONS = (
    "skin_head", "hair", "torso", "upper_arm", "forearm", "hand", "upper_leg", "lower_leg", "foot",
)  # fmt: skip
# The region of the body part of each of the 24 joints; "upper_leg" includes the pelvis, which trousers cover.
_PART_REGIONS = (
    "upper_leg", "upper_leg", "upper_leg", "torso", "lower_leg", "lower_leg", "torso", "foot", "foot",
    "torso", "foot", "foot", "skin_head", "torso", "torso", "skin_head", "upper_arm", "upper_arm",
    "forearm", "forearm", "hand", "hand", "hand", "hand",
)  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """The indices of the 24 joints among those of a model, and for each joint of the model one of the 24."""

    name: str
    joints: tuple[int, ...]
    owners: tuple[int, ...]


_LAYOUTS = {
    24: _Layout("smpl", tuple(range(24)), tuple(range(24))),
    52: _Layout("smplh", (*range(22), 25, 40), (*range(22), *[22] * 15, *[23] * 15)),
    55: _Layout("smplx", (*range(22), 28, 43), (*range(22), 15, 15, 15, *[22] * 15, *[23] * 15)),
}


class _Model(smplx.SMPLLayer):
    """smplx's model, whose constructor accepts any number of joints. SHAPE_SPACE_DIM avoids a warning that the file has
    fewer than 300 betas."""

    SHAPE_SPACE_DIM = NUM_BETAS
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    lbs_weights: Tensor
    parents: Tensor
    faces_tensor: Tensor


class Body(nn.Module):
    """A body model with frozen weights: it has buffers and no parameters.

    name: "embedded", "smpl", "smplh" or "smplx". regions: index into REGIONS of each vertex.
    """

    faces: Int[Tensor, "faces 3"]
    all_joint_template: Float[Tensor, "joints 3"]
    all_joint_shapedirs: Float[Tensor, "joints 3 10"]
    skin_weights: Float[Tensor, "vertices 24"]
    joint_template: Float[Tensor, "24 3"]
    joint_shapedirs: Float[Tensor, "24 3 10"]
    regions: UInt8[np.ndarray, "vertices"]

    def __init__(self, arrays: dict[str, NDArray[Any]], name: str | None = None) -> None:
        super().__init__()
        layout = _LAYOUTS[arrays["weights"].shape[1]]
        self.name = name or layout.name
        self.model = _Model("", data_struct=SimpleNamespace(**arrays))
        self.parents: list[int] = self.model.parents.tolist()
        self._indices = list(layout.joints)
        self._pose_blends = bool(arrays["posedirs"].any())
        owners = torch.eye(NUM_JOINTS)[list(layout.owners)]
        with one_thread():
            rest, dirs = self._regress(self.model.v_template), self._regress(self.model.shapedirs)
        self.register_buffer("all_joint_template", rest, persistent=False)
        self.register_buffer("all_joint_shapedirs", dirs, persistent=False)
        self.register_buffer("joint_template", rest[self._indices], persistent=False)
        self.register_buffer("joint_shapedirs", dirs[self._indices], persistent=False)
        self.register_buffer("faces", self.model.faces_tensor, persistent=False)
        self.register_buffer("skin_weights", self.model.lbs_weights @ owners, persistent=False)
        self.regions = vertex_regions(self.model.v_template, self.skin_weights)

    def _regress(self, per_vertex: Float[Tensor, "vertices *rest"]) -> Float[Tensor, "joints *rest"]:
        return torch.einsum("jv,v...->j...", self.model.J_regressor, per_vertex)

    def digest(self) -> str:
        """Content hash of the model; equal on all devices."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self.model.state_dict())

    def forward(self, params: BodyParams) -> Posed:
        """Skinned vertices and joints, metres, in the frame of `global_orient` and `transl`."""
        batch, flat = params.batch_shape, params.flatten()
        rotations = self._rotations(flat)
        shaped = self.model.v_template + torch.einsum("vik,bk->bvi", self.model.shapedirs, flat.betas)
        if self._pose_blends:
            features = (rotations[:, 1:] - torch.eye(3, device=rotations.device)).flatten(1)
            shaped = shaped + (features @ self.model.posedirs).view_as(shaped)
        rest = self._rest(flat.betas)
        world, joints = self._chain(rotations, rest)
        transforms = torch.cat([world, joints[..., None] - world @ rest[..., None]], dim=-1)
        skin = (self.model.lbs_weights @ transforms.flatten(2)).unflatten(2, (3, 4))
        vertices = (skin[..., :3] @ shaped[..., None])[..., 0] + skin[..., 3] + flat.transl[:, None]
        joints = joints[:, self._indices] + flat.transl[:, None]
        return Posed(vertices.reshape(*batch, -1, 3), joints.reshape(*batch, NUM_JOINTS, 3))

    def joints(self, params: BodyParams) -> Float[Tensor, "*batch 24 3"]:
        """The joints of `forward`, in metres, without computing vertices; differentiable."""
        flat = params.flatten()
        _, joints = self._chain(self._rotations(flat), self._rest(flat.betas))
        return (joints[:, self._indices] + flat.transl[:, None]).reshape(*params.batch_shape, NUM_JOINTS, 3)

    def joints_from_matrices(
        self, rotations: Float[Tensor, "*batch 24 3 3"], betas: Float[Tensor, "*batch 10"]
    ) -> Float[Tensor, "*batch 24 3"]:
        """`joints` from rotation matrices, without a translation; differentiable."""
        flat = rotations.reshape(-1, NUM_JOINTS, 3, 3)
        if (extra := len(self.parents) - 22) > 2:  # SMPL-H and SMPL-X: the hands stay flat
            flat = torch.cat(
                [flat[:, :22], torch.eye(3, device=flat.device).expand(len(flat), extra, 3, 3)], dim=1
            )
        _, joints = self._chain(flat, self._rest(betas.reshape(-1, NUM_BETAS)))
        return joints[:, self._indices].reshape(*betas.shape[:-1], NUM_JOINTS, 3)

    def rest_joints(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 24 3"]:
        """Joints of the unposed body, in metres, in the model's frame (y up, facing +z, left side at +x)."""
        return self.joint_template + torch.einsum("jik,...k->...ji", self.joint_shapedirs, betas)

    def _rotations(self, flat: BodyParams) -> Float[Tensor, "batch joints 3 3"]:
        posed = torch.cat([flat.global_orient[:, None], flat.body_pose], dim=1)
        if len(self.parents) > NUM_JOINTS:  # SMPL-H and SMPL-X: no joint after the wrists is posed
            posed = nn.functional.pad(posed[:, :22], (0, 0, 0, len(self.parents) - 22))
        return roma.rotvec_to_rotmat(posed)

    def _rest(self, betas: Float[Tensor, "batch 10"]) -> Float[Tensor, "batch joints 3"]:
        return self.all_joint_template + torch.einsum("jik,bk->bji", self.all_joint_shapedirs, betas)

    def _chain(
        self, rotations: Float[Tensor, "batch joints 3 3"], rest: Float[Tensor, "batch joints 3"]
    ) -> tuple[Float[Tensor, "batch joints 3 3"], Float[Tensor, "batch joints 3"]]:
        """World rotations and posed positions of all joints, along the kinematic tree."""
        world, positions = [rotations[:, 0]], [rest[:, 0]]
        for child, parent in enumerate(self.parents[1:], start=1):
            bone = rest[:, child] - rest[:, parent]
            world.append(world[parent] @ rotations[:, child])
            positions.append(positions[parent] + (world[parent] @ bone[..., None])[..., 0])
        return torch.stack(world, dim=1), torch.stack(positions, dim=1)


def vertex_regions(
    template: Float[Tensor, "vertices 3"], skin_weights: Float[Tensor, "vertices 24"]
) -> UInt8[np.ndarray, "vertices"]:
    """The region of each vertex, as an index into REGIONS, for any body in SMPL's rest pose.

    A vertex belongs to the joint with the largest weight. Hair is the part of the head above a line that, in profile,
    runs from the nape to the top of the forehead.
    """
    parts = skin_weights.argmax(dim=1)
    regions = torch.tensor([REGIONS.index(region) for region in _PART_REGIONS])[parts.cpu()]
    head = (parts == JOINT_NAMES.index("head")).cpu()
    if not head.any():  # no body, but also nothing to divide into face and hair
        return regions.to(torch.uint8).numpy()
    points = template.cpu()[head]
    low, high = points.amin(dim=0), points.amax(dim=0)
    _, height, depth = ((points - low) / (high - low)).unbind(dim=1)
    regions[head.nonzero()[:, 0][height > 0.15 + 0.8 * depth]] = REGIONS.index("hair")
    return regions.to(torch.uint8).numpy()


def load_body(path: PathLike | None = None) -> Body:
    """The default body, or the SMPL, SMPL-H or SMPL-X model in an `.npz` or official `.pkl` file.

    Raises FileNotFoundError if there is no file, and ValueError, with what was found, if it is not a body model in
    metres.
    """
    if path is None:
        return Body(_embedded_arrays(), "embedded")
    return Body(_read_body(Path(path)))


def body_fingerprint(path: PathLike | None) -> dict[str, str]:
    """The entry `body` of a fingerprint: the digest of the file that `load_body` reads.

    The embedded body has no entry: records that are older than the choice of a body have none either.
    """
    return {} if path is None else {"body": file_digest(Path(path))}


@lru_cache(maxsize=1)
def _embedded_arrays() -> dict[str, NDArray[Any]]:
    return _read_body(EMBEDDED_BODY)


def _read_body(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no body model at {path}")
    arrays = read_arrays(path, ARRAYS)
    for name, axes in _AXES.items():
        if arrays[name].ndim != axes or not arrays[name].size:
            raise ValueError(
                f"{path} has {name} of shape {arrays[name].shape}, not one of {axes} axes with values"
            )
    vertices, joints = len(arrays["v_template"]), arrays["weights"].shape[-1]
    if joints not in _LAYOUTS:
        known = ", ".join(f"{count} ({layout.name})" for count, layout in _LAYOUTS.items())
        raise ValueError(f"{path} has skin weights for {joints} joints; supported are {known}")
    expected = {
        "v_template": (vertices, 3),
        "f": (len(arrays["f"]), 3),
        "weights": (vertices, joints),
        "shapedirs": (vertices, 3, arrays["shapedirs"].shape[-1]),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{path} has {name} of shape {arrays[name].shape}, not {shape}")
    if arrays["shapedirs"].shape[-1] < NUM_BETAS:
        raise ValueError(f"{path} has {arrays['shapedirs'].shape[-1]} betas; {NUM_BETAS} are needed")
    _check_values(arrays, path)
    return arrays


def _check_values(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Raises ValueError for values that are not finite, and for a template that is not in metres."""
    for name in ("v_template", "weights", "shapedirs", "posedirs", "J_regressor"):
        if arrays[name].dtype.kind not in "iuf" or not fits_float32(arrays[name]):
            raise ValueError(f"{path} has {name} with values that are not finite numbers")
    faces, vertices = arrays["f"], len(arrays["v_template"])
    if faces.dtype.kind not in "iuf" or not ((faces >= 0) & (faces < vertices)).all():
        raise ValueError(f"{path} has f with values that are not numbers of its {vertices} vertices")
    extent = float(np.ptp(arrays["v_template"], axis=0).max())
    if extent > MAX_EXTENT_M:
        raise ValueError(
            f"{path} has v_template with an extent of {extent:g}; it must be in metres, such as 1.7"
        )
