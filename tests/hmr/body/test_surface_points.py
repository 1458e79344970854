"""Points of the surface that detectors report, posed without skinning the whole body."""

from __future__ import annotations

import math

import numpy as np
import pytest
import roma
import torch
from smplx.vertex_ids import vertex_ids

from hmr.body.model import Body, load_body
from hmr.body.surface_points import POINT_JOINTS, BodyPoints
from hmr.synthetic.poses import sample_poses
from hmr.types import JOINT_NAMES, NUM_JOINTS, OTHER_POINT, POINT_NAMES, SURFACE_POINT_NAMES, BodyParams
from tests.hmr.body import test_model


@pytest.fixture(scope="module")
def points() -> BodyPoints:
    return BodyPoints().fit_to(load_body())


def rotations_of(params: BodyParams) -> torch.Tensor:
    return roma.rotvec_to_rotmat(torch.cat([params.global_orient[:, None], params.body_pose], dim=1))


def posed_people() -> BodyParams:
    generator = torch.Generator().manual_seed(0)
    poses = sample_poses(16, generator, "wild")
    orient = torch.randn(16, 3, generator=generator)
    return BodyParams(orient, poses.body_pose, torch.randn(16, 10, generator=generator), torch.zeros(16, 3))


def test_joints_are_those_of_the_body(points: BodyPoints) -> None:
    params = posed_people()
    joints_m = load_body().joints(params)
    posed = points(rotations_of(params), params.betas)
    torch.testing.assert_close(posed.points_m[:, :NUM_JOINTS], joints_m - joints_m[:, :1], rtol=0, atol=1e-5)


def test_points_in_the_camera_have_the_bodys_joints(points: BodyPoints) -> None:
    params = posed_people()
    params.transl[:] = torch.tensor([0.3, -0.2, 4.0])
    torch.testing.assert_close(
        points.in_camera(params)[:, :NUM_JOINTS], load_body().joints(params), rtol=0, atol=1e-5
    )


def test_face_and_feet_stay_on_the_skinned_surface(points: BodyPoints) -> None:
    """They are vertices of the default body, so skinning must put those vertices in the same places."""
    params, body = posed_people(), load_body()
    posed = body(params)
    vertices_m = posed.vertices_cam_m - posed.joints_cam_m[:, :1]
    at_rest = (points.surface_template[:, None] - body.model.v_template).norm(dim=-1)
    vertices = [row for row, name in enumerate(SURFACE_POINT_NAMES) if "knuckle" not in name]
    assert float(at_rest[vertices].min(dim=1).values.max()) < 1e-6
    found = points(rotations_of(params), params.betas).points_m[:, NUM_JOINTS:][:, vertices]
    expected = vertices_m[:, at_rest[vertices].argmin(dim=1)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_left_and_right_are_mirror_images_at_rest(points: BodyPoints) -> None:
    rest = points(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10)).points_m[0]
    mirrored = rest[OTHER_POINT] * torch.tensor([-1.0, 1.0, 1.0])
    assert float((rest - mirrored).norm(dim=-1).max()) < 0.02


def test_anatomy_at_rest(points: BodyPoints) -> None:
    """Facing +z with the left side at +x, y up."""
    rest = dict(
        zip(
            POINT_NAMES, points(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10)).points_m[0], strict=True
        )
    )
    assert rest["nose"][2] > rest["left_eye"][2] > rest["left_ear"][2]
    assert rest["left_eye"][1] > rest["nose"][1]
    assert rest["left_heel"][2] < rest["left_ankle"][2] < rest["left_big_toe"][2]
    assert rest["left_small_toe"][0] > rest["left_big_toe"][0] > 0 > rest["right_big_toe"][0]
    assert rest["left_wrist"][0] < rest["left_index_knuckle"][0]
    assert rest["left_thumb_knuckle"][2] > rest["left_index_knuckle"][2] > rest["left_pinky_knuckle"][2]


def test_a_quarter_turn_of_a_knee_moves_only_the_foot_s_points(points: BodyPoints) -> None:
    betas, straight = torch.zeros(1, 10), torch.eye(3).repeat(1, 24, 1, 1)
    bent = straight.clone()
    bent[0, JOINT_NAMES.index("left_knee")] = roma.rotvec_to_rotmat(torch.tensor([math.pi / 2, 0.0, 0.0]))
    moved = (points(bent, betas).points_m - points(straight, betas).points_m)[0].norm(dim=-1) > 1e-4
    below = {"left_ankle", "left_foot", "left_heel", "left_big_toe", "left_small_toe"}
    assert {name for name, is_moved in zip(POINT_NAMES, moved, strict=True) if is_moved} == below


def test_every_point_hangs_on_a_joint_of_its_side() -> None:
    for name, joint in zip(POINT_NAMES, POINT_JOINTS, strict=True):
        side = name.partition("_")[0]
        owner = JOINT_NAMES[joint]
        assert owner == "head" or side not in ("left", "right") or owner.startswith(side)


def test_smpl_uses_the_table_of_smplx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_model, "NUM_VERTICES", 6890)
    body = Body(test_model.random_model("smpl"))
    found = BodyPoints().fit_to(body).surface_template
    table = vertex_ids["smplh"]
    np.testing.assert_allclose(found[0], body.model.v_template[table["nose"]], atol=1e-6)
    left_heel = POINT_NAMES.index("left_heel") - NUM_JOINTS
    np.testing.assert_allclose(found[left_heel], body.model.v_template[table["LHeel"]], atol=1e-6)
    wrist = body.joint_template[JOINT_NAMES.index("left_wrist")]
    tip = body.model.v_template[table["lindex"]]
    knuckle = POINT_NAMES.index("left_index_knuckle") - NUM_JOINTS
    torch.testing.assert_close(found[knuckle], (tip + wrist) / 2, rtol=0, atol=1e-5)
