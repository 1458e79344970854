"""Writes bodies as OBJ, GLB (with a skeleton) and BVH.

Videos give motions: GLB files with an animation at the times of the frames, and BVH files at a constant rate.

All files have y up and z towards the viewer, so that a person photographed upright stands upright. OBJ and GLB are in
metres; BVH is in centimetres, as motion-capture programs expect. `cli.photos.hypotheses_file` writes hypotheses as npz.

BVH: Meredith & Maddock, "Motion Capture File Formats Explained", University of Sheffield, CS-01-11. A motion has one
skeleton, which is that of the mean betas. Left out: FBX, which is proprietary, and USD.
"""

from __future__ import annotations

from collections.abc import Iterator

import roma
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor
from trimesh.exchange.obj import export_obj

from common.storage.files import PathLike, write_bytes, write_text
from hmr.body.gltf import skinned_glb
from hmr.body.model import Body
from hmr.body.motion import Motion
from hmr.body.skeleton import UPRIGHT, skeleton_of
from hmr.types import JOINT_NAMES, PARENTS, BodyParams

__all__ = ["write_animated_glb", "write_bvh", "write_glb", "write_obj"]

CM = 100.0
CHILDREN = tuple(
    tuple(j for j, parent in enumerate(PARENTS) if parent == joint) for joint in range(len(PARENTS))
)


def write_obj(path: PathLike, params: BodyParams, body: Body) -> None:
    """Writes one body (batch shape ()) as a mesh."""
    mesh = trimesh.Trimesh(_vertices_cam_m(params, body) @ UPRIGHT, body.faces.cpu().numpy(), process=False)
    write_text(path, export_obj(mesh, header="meshcritic: metres, y up"))


def write_glb(path: PathLike, params: BodyParams, body: Body) -> None:
    """Writes one body (batch shape ()) as a mesh skinned to its posed skeleton."""
    write_bytes(
        path,
        skinned_glb([_vertices_cam_m(params, body)], skeleton_of(BodyParams.stack([params]), body), body),
    )


def write_animated_glb(path: PathLike, motion: Motion, body: Body) -> None:
    """Writes a motion as one skinned mesh with an animation, whose times are those of the motion. The last pose is held
    until the motion's end."""
    shown = Motion(_with_mean_shape(motion.params, body), motion.times_s, motion.end_s).with_end()
    meshes = (_vertices_cam_m(shown.params[key], body) for key in range(len(shown.times_s)))
    write_bytes(path, skinned_glb(meshes, skeleton_of(shown.params, body), body, shown.times_s))


def write_bvh(path: PathLike, params: BodyParams, body: Body, fps: float) -> None:
    """Writes the bodies of T frames (batch shape (T,)) as one motion, with the bone lengths of the mean betas."""
    skeleton = skeleton_of(_with_mean_shape(params, body), body)
    offsets_cm = skeleton.offsets_m[0] * CM
    lines = ["HIERARCHY", *_joint_lines(0, offsets_cm, depth=0)]
    lines += ["MOTION", f"Frames: {len(params.betas)}", f"Frame Time: {1 / fps:.6f}"]
    rotations = skeleton.rotations[:, list(_depth_first(0))]
    angles_deg = torch.stack(
        list(roma.rotmat_to_euler("ZXY", rotations, degrees=True, as_tuple=True)), dim=-1
    )
    for position_m, angles in zip(skeleton.root_world_m, angles_deg, strict=True):
        values = torch.cat([position_m * CM, angles.flatten()])
        lines.append(" ".join(f"{value:.4f}" for value in values.tolist()))
    write_text(path, "\n".join(lines) + "\n")


def _with_mean_shape(params: BodyParams, body: Body) -> BodyParams:
    """Bodies of T frames with the mean betas. The pelvis keeps its position with the betas of the frame."""
    betas = params.betas.mean(dim=0, keepdim=True).expand_as(params.betas)
    pelvis_m = params.transl + body.rest_joints(params.betas)[:, 0]
    transl = pelvis_m - body.rest_joints(betas)[:, 0]
    return BodyParams(params.global_orient, params.body_pose, betas, transl)


def _vertices_cam_m(params: BodyParams, body: Body) -> Float[Tensor, "vertices 3"]:
    with torch.no_grad():
        return body(params).vertices_cam_m.cpu()


def _depth_first(joint: int) -> Iterator[int]:
    """The order of the joints in the motion of a BVH file."""
    yield joint
    for child in CHILDREN[joint]:
        yield from _depth_first(child)


def _joint_lines(joint: int, offsets_cm: Float[Tensor, "24 3"], depth: int) -> Iterator[str]:
    """The lines of a joint and its descendants. The root's offset is zero: its channels contain its position."""
    pad, inner = "\t" * depth, "\t" * (depth + 1)
    yield f"{pad}{'JOINT' if depth else 'ROOT'} {JOINT_NAMES[joint]}"
    yield pad + "{"
    yield inner + _offset(offsets_cm[joint] * (depth > 0))
    position = "" if depth else "Xposition Yposition Zposition "
    yield f"{inner}CHANNELS {3 if depth else 6} {position}Zrotation Xrotation Yrotation"
    for child in CHILDREN[joint]:
        yield from _joint_lines(child, offsets_cm, depth + 1)
    if not CHILDREN[joint]:  # the format requires an end point: half the length of the last bone
        yield from (
            f"{inner}End Site",
            inner + "{",
            f"{inner}\t{_offset(offsets_cm[joint] / 2)}",
            inner + "}",
        )
    yield pad + "}"


def _offset(offset_cm: Float[Tensor, "3"]) -> str:
    return "OFFSET " + " ".join(f"{value:.4f}" for value in offset_cm.tolist())
