"""OBJ, GLB and BVH files, read according to their specifications, are compared with the body model."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from hmr.body.export import write_animated_glb, write_bvh, write_glb, write_obj
from hmr.body.model import Body, load_body
from hmr.body.motion import Motion
from hmr.types import JOINT_NAMES, PARENTS, BodyParams
from tests.hmr.body.test_model import random_params, write_model

Y_UP = np.array([1.0, -1.0, -1.0])
COMPONENTS = {5121: "u1", 5125: "<u4", 5126: "<f4"}
SIZES = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}


@pytest.fixture(params=["embedded", "smpl", "smplx"])
def any_body(request: pytest.FixtureRequest, tmp_path: Path) -> Body:
    if request.param == "embedded":
        return load_body()
    return load_body(write_model(tmp_path, request.param, ".npz"))


def posed(params: BodyParams, body: Body) -> np.ndarray:
    return body(params).vertices_cam_m.numpy() * Y_UP


def read_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    chunks, offset = {}, 12
    while offset < length:
        size, kind = struct.unpack_from("<I4s", data, offset)
        assert size % 4 == 0
        chunks[kind] = data[offset + 8 : offset + 8 + size]
        offset += 8 + size
    return json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]


def read_accessor(tree: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    accessor = tree["accessors"][index]
    view, size = tree["bufferViews"][accessor["bufferView"]], SIZES[accessor["type"]]
    kind = np.dtype(COMPONENTS[accessor["componentType"]])
    assert view["byteOffset"] % 4 == 0
    assert view["byteLength"] == accessor["count"] * kind.itemsize * int(np.prod(size))
    return np.frombuffer(binary, kind, accessor["count"] * int(np.prod(size)), view["byteOffset"]).reshape(
        -1, *size
    )


def world_matrices(nodes: list[dict[str, Any]]) -> np.ndarray:
    """The world matrix of a node is that of its parent times translation times rotation."""
    matrices = np.tile(np.eye(4), (len(nodes), 1, 1))

    def visit(index: int, parent: np.ndarray) -> None:
        local = np.eye(4)
        local[:3, :3] = Rotation.from_quat(nodes[index].get("rotation", (0, 0, 0, 1))).as_matrix()
        local[:3, 3] = nodes[index].get("translation", (0, 0, 0))
        matrices[index] = parent @ local
        for child in nodes[index].get("children", ()):
            visit(child, matrices[index])

    children = {child for node in nodes for child in node.get("children", ())}
    for root in set(range(len(nodes))) - children:
        visit(root, np.eye(4))
    return matrices


def test_skinning_the_glb_gives_the_posed_body(any_body: Body, tmp_path: Path):
    """glTF 2.0, 3.7.3.3: x = sum_j w_j world(j) inverseBind(j) x_mesh."""
    params = random_params(seed=3)
    write_glb(tmp_path / "a.glb", params, any_body)
    shown = skinned(*read_glb(tmp_path / "a.glb"))
    np.testing.assert_allclose(shown, posed(params, any_body), atol=1e-3)


def skinned(tree: dict[str, Any], binary: bytes) -> np.ndarray:
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    mesh, joints, weights = (
        read_accessor(tree, binary, attributes[name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
    )
    skin = tree["skins"][0]
    inverse_bind = read_accessor(tree, binary, skin["inverseBindMatrices"]).transpose(
        0, 2, 1
    )  # columns first
    bones = world_matrices(tree["nodes"])[skin["joints"]] @ inverse_bind
    shown = np.einsum("vb,vbij,vj->vi", weights, bones[joints], np.c_[mesh, np.ones(len(mesh))])[:, :3]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    return shown


def test_joints_of_the_glb_equal_those_of_the_body(any_body: Body, tmp_path: Path):
    params = random_params(seed=4)
    write_glb(tmp_path / "a.glb", params, any_body)
    nodes = read_glb(tmp_path / "a.glb")[0]["nodes"]
    assert [node["name"] for node in nodes[:24]] == list(JOINT_NAMES)
    positions = world_matrices(nodes)[:24, :3, 3]
    np.testing.assert_allclose(positions, any_body.joints(params).numpy() * Y_UP, atol=1e-4)


def test_the_mesh_of_the_glb_is_close_to_the_rest_pose(body: Body, tmp_path: Path):
    """Four bones per vertex cannot give both poses exactly: the posed mesh is exact, the rest pose approximate."""
    params = random_params(seed=5)
    write_glb(tmp_path / "a.glb", params, body)
    (mesh,) = trimesh.load_scene(tmp_path / "a.glb").geometry.values()
    rest = BodyParams(torch.zeros(3), torch.zeros(23, 3), params.betas, torch.zeros(3))
    error_mm = 1e3 * np.linalg.norm(mesh.vertices - body(rest).vertices_cam_m.numpy(), axis=1)
    assert np.median(error_mm) < 0.01
    assert error_mm.mean() < 0.5
    assert len(mesh.faces) == len(body.faces)


def test_the_glb_follows_the_specification(body: Body, tmp_path: Path):
    write_glb(tmp_path / "a.glb", random_params(seed=6), body)
    tree, binary = read_glb(tmp_path / "a.glb")
    primitive = tree["meshes"][0]["primitives"][0]
    position = tree["accessors"][primitive["attributes"]["POSITION"]]
    mesh = read_accessor(tree, binary, primitive["attributes"]["POSITION"])
    assert position["min"] == mesh.min(axis=0).tolist()
    assert position["max"] == mesh.max(axis=0).tolist()
    normals = read_accessor(tree, binary, primitive["attributes"]["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    assert tree["buffers"] == [{"byteLength": len(binary)}]
    joints, weights = (
        read_accessor(tree, binary, primitive["attributes"][n]) for n in ("JOINTS_0", "WEIGHTS_0")
    )
    assert joints[weights == 0].max(initial=0) == 0


# --- animated GLB ---

TIMES_S = (0.0, 1.0, 1.04, 1.5)  # of three poses, and the end


def write_motion(path: Path, body: Body) -> tuple[BodyParams, dict[str, Any], bytes]:
    """Three poses of one shape."""
    params = random_params(3, seed=8)
    params = BodyParams(params.global_orient, params.body_pose, params.betas[:1].expand(3, 10), params.transl)
    write_animated_glb(path, Motion(params, TIMES_S[:-1], TIMES_S[-1]), body)
    return params, *read_glb(path)


def at_key(tree: dict[str, Any], binary: bytes, key: int) -> dict[str, Any]:
    """The file with the nodes as the animation has them at one of its times."""
    nodes = [dict(node) for node in tree["nodes"]]
    (animation,) = tree["animations"]
    for channel in animation["channels"]:
        output = animation["samplers"][channel["sampler"]]["output"]
        value = read_accessor(tree, binary, output)[key].tolist()
        nodes[channel["target"]["node"]][channel["target"]["path"]] = value
    return {**tree, "nodes": nodes}


def test_the_animation_shows_the_body_of_each_frame(any_body: Body, tmp_path: Path):
    """Joints are exact. Four bones per vertex, and a mesh that cannot depend on the pose, are not."""
    params, tree, binary = write_motion(tmp_path / "a.glb", any_body)
    joints = any_body.joints(params).numpy() * Y_UP
    for key, frame in enumerate((0, 1, 2, 2)):  # the last pose is held until the end
        shown = at_key(tree, binary, key)
        np.testing.assert_allclose(world_matrices(shown["nodes"])[:24, :3, 3], joints[frame], atol=1e-4)
        if any_body.name == "embedded":
            errors_mm = 1e3 * np.linalg.norm(skinned(shown, binary) - posed(params[frame], any_body), axis=1)
            assert errors_mm.mean() < 0.1
            assert errors_mm.max() < 20


def test_the_animation_follows_the_specification(body: Body, tmp_path: Path):
    _, tree, binary = write_motion(tmp_path / "a.glb", body)
    (animation,) = tree["animations"]
    targets = {(c["target"]["node"], c["target"]["path"]) for c in animation["channels"]}
    assert targets == {*((joint, "rotation") for joint in range(24)), (0, "translation")}
    (times,) = {sampler["input"] for sampler in animation["samplers"]}
    accessor, values = tree["accessors"][times], read_accessor(tree, binary, times)
    np.testing.assert_allclose(values, TIMES_S)
    assert (accessor["min"], accessor["max"]) == ([0.0], [1.5])
    for channel in animation["channels"]:
        output = tree["accessors"][animation["samplers"][channel["sampler"]]["output"]]
        assert output["count"] == len(TIMES_S)
        assert output["type"] == {"rotation": "VEC4", "translation": "VEC3"}[channel["target"]["path"]]
        if output["type"] == "VEC4":  # unit quaternions; viewers may not take the shorter arc
            turns = read_accessor(tree, binary, animation["samplers"][channel["sampler"]]["output"])
            np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-5)
            assert ((turns[1:] * turns[:-1]).sum(axis=1) >= 0).all()
    assert tree["buffers"] == [{"byteLength": len(binary)}]


def test_an_animated_glb_has_one_mesh(body: Body, tmp_path: Path):
    write_motion(tmp_path / "motion.glb", body)
    write_glb(tmp_path / "still.glb", random_params(seed=8), body)
    (mesh,) = trimesh.load_scene(tmp_path / "motion.glb").geometry.values()
    assert (len(mesh.vertices), len(mesh.faces)) == (len(body.model.v_template), len(body.faces))
    sizes = [(tmp_path / name).stat().st_size for name in ("motion.glb", "still.glb")]
    assert sizes[0] - sizes[1] < 16_000  # 25 channels, and 400 bytes per time


def test_an_obj_is_the_posed_mesh(body: Body, tmp_path: Path):
    params = random_params(seed=7)
    write_obj(tmp_path / "a.obj", params, body)
    mesh = trimesh.load_mesh(tmp_path / "a.obj", process=False)
    np.testing.assert_allclose(mesh.vertices, posed(params, body), atol=1e-5)
    np.testing.assert_array_equal(mesh.faces, body.faces.numpy())
    assert mesh.volume > 0.02  # faces are oriented outwards


# --- BVH ---


def read_bvh(path: Path) -> tuple[list[str], list[int], np.ndarray, float, np.ndarray]:
    """Names, parents, offsets, frame time and values. Rotations are about Z, X, Y; the root also has a position."""
    text, motion = path.read_text().split("MOTION")
    names, parents, offsets, open_joints = [], [], [], []
    for word in re.finditer(r"(?:ROOT|JOINT) (\S+)|(End Site)|OFFSET (.*)|CHANNELS (.*)|(\})", text):
        name, tip, offset, channels, closed = word.groups()
        if name:
            names.append(name)
            parents.append(open_joints[-1] if open_joints else -1)
            open_joints.append(len(names) - 1)
        elif tip:
            open_joints.append(-1)
        elif offset and open_joints[-1] >= 0:
            offsets.append([float(value) for value in offset.split()])
        elif channels:
            assert channels.endswith("Zrotation Xrotation Yrotation")
            assert channels.startswith("6 Xposition Yposition Zposition" if parents[-1] < 0 else "3 ")
        elif closed:
            open_joints.pop()
    assert not open_joints
    header, *frames = motion.strip().split("\n")[0:1] + motion.strip().split("\n")[2:]
    assert header == f"Frames: {len(frames)}"
    frame_time = float(re.search(r"Frame Time: (\S+)", motion)[1])
    return (
        names,
        parents,
        np.array(offsets),
        frame_time,
        np.array([[float(v) for v in f.split()] for f in frames]),
    )


def positions_cm(parents: list[int], offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    rotations, positions = [], []
    for joint, parent in enumerate(parents):
        local = Rotation.from_euler("ZXY", values[3 + 3 * joint : 6 + 3 * joint], degrees=True)
        rotations.append(local if parent < 0 else rotations[parent] * local)
        moved = None if parent < 0 else rotations[parent].apply(offsets[joint])
        positions.append(values[:3] if parent < 0 else positions[parent] + moved)
    return np.array(positions)


def test_joints_of_the_bvh_equal_those_of_the_body(any_body: Body, tmp_path: Path):
    """Three frames with the same shape; positions in centimetres agree within 0.1 mm."""
    params = random_params(3, seed=8)
    params = BodyParams(params.global_orient, params.body_pose, params.betas[:1].expand(3, 10), params.transl)
    write_bvh(tmp_path / "a.bvh", params, any_body, fps=25.0)
    names, parents, offsets, frame_time, frames = read_bvh(tmp_path / "a.bvh")
    assert frame_time == 0.04  # 1 / 25 s
    order = [JOINT_NAMES.index(name) for name in names]
    assert sorted(order) == list(range(24))
    assert [order[parent] if parent >= 0 else -1 for parent in parents] == [PARENTS[joint] for joint in order]
    truth_cm = any_body.joints(params).numpy() * Y_UP * 100
    for frame, truth in zip(frames, truth_cm, strict=True):
        np.testing.assert_allclose(positions_cm(parents, offsets, frame), truth[order], atol=1e-2)


def test_bones_of_the_bvh_have_the_mean_shape_and_the_pelvis_its_position(body: Body, tmp_path: Path):
    params = random_params(2, seed=9)
    write_bvh(tmp_path / "a.bvh", params, body, fps=30.0)
    names, _, offsets, _, frames = read_bvh(tmp_path / "a.bvh")
    rest_cm = 100 * body.rest_joints(params.betas.mean(dim=0)).numpy()
    knee, hip = JOINT_NAMES.index("left_knee"), JOINT_NAMES.index("left_hip")
    np.testing.assert_allclose(offsets[names.index("left_knee")], rest_cm[knee] - rest_cm[hip], atol=1e-3)
    pelvis_cm = 100 * body.joints(params)[:, 0].numpy() * Y_UP
    np.testing.assert_allclose(frames[:, :3], pelvis_cm, atol=1e-2)
