"""Rendered people as the encoder reads them: their truth, their mirror images, and their place in a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from hmr.body.model import Body, load_body
from hmr.body.surface_points import BodyPoints
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import PersonEncoder
from hmr.policy.condition import condition_of, points_of, unpack_points
from hmr.policy.parametrization import box_features, geometry_of, pelvis_from_crop, project, split
from hmr.pretraining.policy_recipe import PolicyRecipe
from hmr.pretraining.policy_training import HELD_OUT, _People
from hmr.pretraining.rendered_people import RenderedRecipe, mirrored, read_rendered_people
from hmr.pretraining.simulation import PeopleRecipe, SimulatedPeople, simulate
from hmr.synthetic.recipe import LAB
from hmr.synthetic.store import make_scenes, read_labelled
from hmr.types import NUM_JOINTS

RECIPE = RenderedRecipe({"lab": 4}, seed=9)


@pytest.fixture
def rendered(tiny_encoder: PersonEncoder, tmp_path: Path) -> SimulatedPeople:
    return read_rendered_people(RECIPE, tiny_encoder, tmp_path)


def test_a_reading_is_what_the_detector_reports_of_the_scene(
    rendered: SimulatedPeople, tiny_encoder: PersonEncoder, tmp_path: Path
) -> None:
    samples = [scene.sample for scene in read_labelled(make_scenes(tmp_path / "set", LAB, 9, 4))]
    squares = [tiny_encoder.crop_box(sample.box) for sample in samples]
    found = EmbeddedDetector(tiny_encoder).detect_batch(samples)
    geometry = geometry_of([sample.camera for sample in samples], squares)
    expected = condition_of(points_of(found, squares), box_features(geometry))
    torch.testing.assert_close(rendered.features[:4], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(rendered.geometry[:4], geometry)


def test_the_vector_is_the_body_of_the_scene(rendered: SimulatedPeople, body: Body, tmp_path: Path) -> None:
    truths = [scene.truth for scene in read_labelled(make_scenes(tmp_path / "set", LAB, 9, 4))]
    rotations, betas, _ = split(rendered.vector[:4])
    joints_m = BodyPoints().fit_to(body)(rotations, betas).points_m[:, :NUM_JOINTS]
    true = torch.stack([truth.joints_cam_m for truth in truths])
    torch.testing.assert_close(joints_m, true - true[:, :1], rtol=0, atol=1e-4)


def test_scenes_are_read_once(
    rendered: SimulatedPeople, tiny_encoder: PersonEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hmr.pretraining.crop_cache.in_order", None)
    monkeypatch.setattr(tiny_encoder, "forward", None)
    again = read_rendered_people(RECIPE, tiny_encoder, tmp_path)
    for column in dataclasses.fields(SimulatedPeople):
        assert torch.equal(getattr(again, column.name), getattr(rendered, column.name))


@pytest.fixture(scope="module")
def simulated() -> SimulatedPeople:
    points = BodyPoints().fit_to(load_body())
    return simulate(64, points, torch.Generator().manual_seed(0), PeopleRecipe(known_focal=1.0))


def test_the_mirror_image_of_a_mirror_image_is_the_person(simulated: SimulatedPeople) -> None:
    twice = mirrored(mirrored(simulated))
    for column in dataclasses.fields(SimulatedPeople):
        torch.testing.assert_close(
            getattr(twice, column.name), getattr(simulated, column.name), rtol=0, atol=1e-3
        )


def test_a_mirrored_body_projects_onto_its_mirrored_keypoints(simulated: SimulatedPeople) -> None:
    """The embedded body is symmetric but for a few millimetres."""
    people = mirrored(simulated)
    rotations, betas, pelvis = split(people.vector)
    joints_m = BodyPoints().fit_to(load_body())(rotations, betas).points_m[:, :NUM_JOINTS]
    joints_cam_m = joints_m + pelvis_from_crop(pelvis, people.geometry)[:, None]
    center, side = people.geometry[:, None, 5:7], people.geometry[:, None, 7:]
    in_crop = (project(joints_cam_m, people.geometry) - center) * 2 / side
    torch.testing.assert_close(in_crop, people.keypoints, rtol=0, atol=0.02)


def test_a_mirrored_detection_has_left_points_right(simulated: SimulatedPeople) -> None:
    before, after = unpack_points(simulated.features), unpack_points(mirrored(simulated).features)
    torch.testing.assert_close(after.position[:, 4, 0], -before.position[:, 5, 0])  # knees
    torch.testing.assert_close(after.position[:, 4, 1], before.position[:, 5, 1])
    torch.testing.assert_close(after.depth_m[:, 4], before.depth_m[:, 5])


def test_a_batch_has_its_share_of_rendered_people_and_none_of_the_held_out(
    simulated: SimulatedPeople,
) -> None:
    """Rows are told apart by a mark in place of a beta; half of the 40 scenes' readings are mirrored."""
    marked = simulated[torch.arange(40)]
    marked.vector[:, -4] = torch.arange(20).repeat(2) + 1000.0
    recipe = PolicyRecipe(pool=20, rendered=RenderedRecipe({"lab": 20}, share=0.5))
    people = _People(recipe, BodyPoints().fit_to(load_body()), marked)
    drawn = {stage: people.draw(stage, 0, 200).vector[:, -4] for stage in ("estimate", HELD_OUT)}
    scenes = {stage: set((marks[marks >= 1000] - 1000).tolist()) for stage, marks in drawn.items()}
    assert all((marks >= 1000).sum() == 100 for marks in drawn.values())
    assert scenes == {"estimate": {float(scene) for scene in range(1, 20)}, HELD_OUT: {0.0}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scenes": {"moon": 3}}, "no recipe is called 'moon'"),
        ({"scenes": {"wild": 3}, "seed": 5}, "seed 5 of wild draws the scenes of wild-test"),
        ({"scenes": {"wild": 0}}, "number of wild scenes must be at least 1, not 0"),
        ({"share": 0.0}, "share must be above 0"),
    ],
)
def test_scenes_that_cannot_be_used_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenderedRecipe(**fields)
