"""Bodies as files that other programs open: OBJ, GLB with its skeleton, BVH.

All are y up with z towards the viewer, so that a person photographed upright stands upright. OBJ and GLB are in metres;
BVH is in centimetres, as motion-capture programs expect. The npz of hypotheses is `cli.photos.hypotheses_file`'s.

BVH: Meredith & Maddock, "Motion Capture File Formats Explained", University of Sheffield, CS-01-11. It has one
skeleton a file: the bones of the mean betas. Left out: FBX, which is proprietary, and USD.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import roma
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor
from trimesh.exchange.obj import export_obj

from hmr.body.gltf import skinned_glb
from hmr.body.model import Body
from hmr.body.skeleton import UPRIGHT, skeleton_of
from hmr.types import JOINT_NAMES, PARENTS, BodyParams

__all__ = ["write_bvh", "write_glb", "write_obj"]

CM = 100.0
CHILDREN = tuple(
    tuple(j for j, parent in enumerate(PARENTS) if parent == joint) for joint in range(len(PARENTS))
)


def write_obj(path: Path, params: BodyParams, body: Body) -> None:
    """One body (batch shape ()) as a mesh."""
    mesh = trimesh.Trimesh(_vertices_cam_m(params, body) @ UPRIGHT, body.faces.cpu().numpy(), process=False)
    _write(path, export_obj(mesh, header="meshcritic: metres, y up").encode())


def write_glb(path: Path, params: BodyParams, body: Body) -> None:
    """One body (batch shape ()) as a mesh on its posed skeleton."""
    _write(path, skinned_glb(_vertices_cam_m(params, body), skeleton_of(params, body), body))


def write_bvh(path: Path, params: BodyParams, body: Body, fps: float) -> None:
    """Bodies in time (batch shape (T,)) as one motion, a frame each; the offsets are those of the mean betas."""
    betas = params.betas.mean(dim=0, keepdim=True).expand_as(params.betas)
    # the pelvis stays where each frame's own shape put it
    pelvis_m = params.transl + body.rest_joints(params.betas)[:, 0]
    mean_pelvis_m = body.rest_joints(betas)[:, 0]
    skeleton = skeleton_of(
        BodyParams(params.global_orient, params.body_pose, betas, pelvis_m - mean_pelvis_m), body
    )
    offsets_cm = skeleton.offsets_m[0] * CM
    lines = ["HIERARCHY", *_joint_lines(0, offsets_cm, depth=0)]
    lines += ["MOTION", f"Frames: {len(betas)}", f"Frame Time: {1 / fps:.6f}"]
    turns = skeleton.rotations[:, list(_depth_first(0))]
    angles_deg = torch.stack(list(roma.rotmat_to_euler("ZXY", turns, degrees=True, as_tuple=True)), dim=-1)
    for place_m, angles in zip(skeleton.root_world_m, angles_deg, strict=True):
        values = torch.cat([place_m * CM, angles.flatten()])
        lines.append(" ".join(f"{value:.4f}" for value in values.tolist()))
    _write(path, ("\n".join(lines) + "\n").encode())


def _vertices_cam_m(params: BodyParams, body: Body) -> Float[Tensor, "vertices 3"]:
    with torch.no_grad():
        return body(params).vertices_cam_m.cpu()


def _depth_first(joint: int) -> Iterator[int]:
    """The order in which a BVH's motion lists its joints."""
    yield joint
    for child in CHILDREN[joint]:
        yield from _depth_first(child)


def _joint_lines(joint: int, offsets_cm: Float[Tensor, "24 3"], depth: int) -> Iterator[str]:
    """A joint and what hangs from it. The root's offset is zero: its channels say where it is."""
    pad, inner = "\t" * depth, "\t" * (depth + 1)
    yield f"{pad}{'JOINT' if depth else 'ROOT'} {JOINT_NAMES[joint]}"
    yield pad + "{"
    yield inner + _offset(offsets_cm[joint] * (depth > 0))
    place = "" if depth else "Xposition Yposition Zposition "
    yield f"{inner}CHANNELS {3 if depth else 6} {place}Zrotation Xrotation Yrotation"
    for child in CHILDREN[joint]:
        yield from _joint_lines(child, offsets_cm, depth + 1)
    if not CHILDREN[joint]:  # the format wants a tip: half the last bone on
        yield from (
            f"{inner}End Site",
            inner + "{",
            f"{inner}\t{_offset(offsets_cm[joint] / 2)}",
            inner + "}",
        )
    yield pad + "}"


def _offset(offset_cm: Float[Tensor, "3"]) -> str:
    return "OFFSET " + " ".join(f"{value:.4f}" for value in offset_cm.tolist())


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
