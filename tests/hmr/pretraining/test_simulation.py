"""Simulated people: consistent with their cameras, reproducible, and as varied as the recipe says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import roma
import torch

from hmr.body.model import load_body
from hmr.body.surface_points import BodyPoints
from hmr.policy.condition import CONDITION_SIZE, unpack_points
from hmr.policy.parametrization import pelvis_from_crop, project, split
from hmr.pretraining.policy_recipe import read_policy_recipe
from hmr.pretraining.simulation import PeopleRecipe, SimulatedPeople, draw_poses, simulate
from hmr.synthetic.recipe import STUDIO
from hmr.types import NUM_JOINTS

COUNT = 400


@pytest.fixture(scope="module")
def points() -> BodyPoints:
    return BodyPoints().fit_to(load_body())


def draw(
    points: BodyPoints, recipe: PeopleRecipe | None = None, detectors: tuple[str, ...] = ("precise",)
) -> SimulatedPeople:
    return simulate(COUNT, points, torch.Generator().manual_seed(0), recipe, detectors=detectors)


def test_the_vector_projects_onto_the_keypoints(points: BodyPoints) -> None:
    """With known focal lengths, the body of the target vector, through the camera that the policy is given, has its
    joints at the true keypoints."""
    people = draw(points, PeopleRecipe(known_focal=1.0))
    rotations, betas, pelvis = split(people.vector)
    joints_m = points(rotations, betas).points_m[:, :NUM_JOINTS]
    joints_cam_m = joints_m + pelvis_from_crop(pelvis, people.geometry)[:, None]
    center, side = people.geometry[:, None, 5:7], people.geometry[:, None, 7:]
    in_crop = (project(joints_cam_m, people.geometry) - center) * 2 / side
    torch.testing.assert_close(in_crop, people.keypoints, rtol=0, atol=2e-3)


def test_a_precise_detector_reports_visible_joints_where_they_are(points: BodyPoints) -> None:
    people = draw(points)
    found = unpack_points(people.features)
    error = (found.position[:, :NUM_JOINTS] - people.keypoints).norm(dim=-1)
    near = people.visible & (people.keypoints.abs() < 2).all(dim=-1)
    assert float(error[near].median()) < 0.02


def test_the_same_seed_gives_the_same_people(points: BodyPoints) -> None:
    first, second = draw(points, detectors=("embedded",)), draw(points, detectors=("embedded",))
    for field in dataclasses.fields(SimulatedPeople):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))


def test_everything_is_finite_and_before_the_camera(points: BodyPoints) -> None:
    people = simulate(2000, points, torch.Generator().manual_seed(1))
    assert people.features.shape == (2000, CONDITION_SIZE)
    for field in dataclasses.fields(SimulatedPeople):
        assert getattr(people, field.name).isfinite().all()
    assert (pelvis_from_crop(people.vector[:, -3:], people.geometry)[:, 2] > 0).all()


def test_boxes_hold_the_person(points: BodyPoints) -> None:
    """Without occlusion and truncation nearly all joints lie inside the square about the box."""
    whole = PeopleRecipe(truncated=0.0, occluders=0.0, half_hidden=0.0, person_fraction=(0.2, 0.8))
    people = draw(points, whole)
    assert float((people.keypoints.abs() < 1).all(dim=-1).float().mean()) > 0.97
    span = people.keypoints.amax(dim=1) - people.keypoints.amin(dim=1)
    assert 1.0 < float(span.amax(dim=-1).median()) < 1.8


@pytest.mark.parametrize(
    ("change", "more"),
    [({"occluders": 1.0}, True), ({"half_hidden": 1.0}, True), ({"occluders": 0.0}, False)],
)
def test_occlusion_hides_joints(points: BodyPoints, change: dict[str, float], more: bool) -> None:
    usual = float(draw(points).visible.float().mean())
    changed = float(draw(points, PeopleRecipe(**change)).visible.float().mean())
    assert (changed < usual) == more


def test_wide_views_look_from_everywhere(points: BodyPoints) -> None:
    """The body's up axis leaves the image plane by more than 60 degrees for some people, but for none from the usual
    elevations of -30 to 45 degrees with a moderate roll."""

    def lean_deg(recipe: PeopleRecipe) -> torch.Tensor:
        standing = dataclasses.replace(
            draw_poses(50, torch.Generator().manual_seed(2)), orient_up=torch.zeros(50, 3)
        )
        people = simulate(COUNT, points, torch.Generator().manual_seed(0), recipe, standing, ("precise",))
        up = split(people.vector)[0][:, 0, :, 1]
        return torch.rad2deg(torch.asin(up[:, 2].abs().clamp_max(1)))

    assert float(lean_deg(PeopleRecipe(wide_view=1.0, any_tilt=0.0)).max()) > 60
    assert float(lean_deg(PeopleRecipe(wide_view=0.0, any_tilt=0.0)).max()) < 45.5


def test_focal_lengths_span_the_recipe(points: BodyPoints) -> None:
    """20 to 135 mm before a sensor of 36 mm that is 1,000 pixels wide."""
    people = draw(points, PeopleRecipe(known_focal=1.0))
    focal_px = people.geometry[:, 0]
    assert 20 / 36 * 1000 <= float(focal_px.min()) < 700
    assert 3000 < float(focal_px.max()) <= 135 / 36 * 1000


def test_unknown_focal_lengths_are_estimated_as_the_diagonal(points: BodyPoints) -> None:
    geometry = draw(points, PeopleRecipe(known_focal=0.0)).geometry
    torch.testing.assert_close(geometry[:, 0], torch.hypot(geometry[:, 3], geometry[:, 4]))


def test_limbs_of_different_poses_are_combined(points: BodyPoints) -> None:
    """From a pool of two poses, mixing arms and legs makes four."""
    pool = draw_poses(2, torch.Generator().manual_seed(3))
    recipe = PeopleRecipe(mixed_limbs=0.5, noisy_pose=0.0, any_tilt=0.0)
    people = simulate(COUNT, points, torch.Generator().manual_seed(0), recipe, pool, ("precise",))
    rotations = roma.rotmat_to_rotvec(split(people.vector)[0])[:, 1:].flatten(1)
    assert len({tuple(row) for row in (rotations * 100).round().int().tolist()}) >= 4
    assert math.isclose(float(rotations.abs().max()), float(pool.body_pose.abs().max()), abs_tol=0.01)


def test_the_people_of_the_studio_policy_are_those_of_the_scenes():
    """The recipe repeats the parameters of the scenes, and adds nothing to them."""
    recipe = read_policy_recipe("configs/pretrain_studio_policy.yaml")
    people = recipe.people
    assert [tuple(camera) for camera in people.cameras] == [tuple(camera) for camera in STUDIO.cameras]
    assert (people.subjects, people.betas_std) == (STUDIO.subjects, STUDIO.betas_std)
    assert people.person_fraction == STUDIO.person_fraction
    assert recipe.detectors == (STUDIO.detector,)
    assert (people.studio_poses, people.lab_poses) == (1, 0)
    added = ("mixed_limbs", "noisy_pose", "any_tilt", "known_focal", "truncated", "occluders", "half_hidden")
    assert all(getattr(people, name) == 0 for name in added)
    assert recipe.policy["detector"] == "simulated"


def test_people_before_fixed_cameras_stand_on_the_floor_and_are_visible(points: BodyPoints) -> None:
    recipe = dataclasses.replace(
        read_policy_recipe("configs/pretrain_studio_policy.yaml").people, known_focal=1.0
    )
    people = draw(points, recipe)
    assert float(people.visible.float().mean()) > 0.998
    rotations, betas, pelvis = split(people.vector)
    assert len({tuple(row) for row in betas.tolist()}) == 5
    joints_m = points(rotations, betas).points_m[:, :NUM_JOINTS]
    joints_m = joints_m + pelvis_from_crop(pelvis, people.geometry)[:, None]
    stands = torch.zeros(COUNT, dtype=torch.bool)
    for focal, elevation, roll, height in recipe.cameras:
        mine = (people.geometry[:, 0] - focal / 36 * 1000).abs() < 0.01
        tilt, turn = math.radians(elevation), math.radians(roll)
        up = torch.tensor(
            [math.sin(turn) * math.cos(tilt), -math.cos(turn) * math.cos(tilt), -math.sin(tilt)]
        )
        lowest_m = (joints_m @ up).amin(dim=1)
        here = mine & ((lowest_m + height).abs() < 0.01)
        assert here.any()
        stands |= here
    assert stands.all()


def test_a_camera_that_lacks_a_number_is_refused():
    with pytest.raises(ValueError, match="each of cameras takes focal length"):
        PeopleRecipe(cameras=((41.0, 12.0),))
