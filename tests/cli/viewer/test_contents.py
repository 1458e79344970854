"""What is shown of a photograph, and from where: geometry, without a browser."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cli.viewer.cameras import UP, View, camera_view, overview, side_view
from cli.viewer.contents import IN_A_ROW, IN_PLACE, Composer, Panel, Selection
from hmr.body.model import Body
from hmr.render.overlay import CLAY, score_color
from tests.cli.viewer.shown_photo import CAMERA, GROUP, make_shown

ASPECTS = (0.5, 1.3, 3.0)


@pytest.fixture
def composer(body: Body) -> Composer:
    return Composer(make_shown(), body)


@pytest.fixture
def alone(body: Body) -> Composer:
    """One source."""
    return Composer(make_shown(sources=1), body)


def project(points_m: np.ndarray) -> np.ndarray:
    return CAMERA.project(torch.from_numpy(points_m)).numpy()


def on_screen(view: View, points_m: np.ndarray, aspect: float) -> np.ndarray:
    """Positions in the window, from -1 to 1 in both directions, x right and y down."""
    forward = (view.look_at_m - view.position_m) / np.linalg.norm(view.look_at_m - view.position_m)
    right = np.cross(forward, UP) / np.linalg.norm(np.cross(forward, UP))
    axes = np.stack([right, np.cross(forward, right), forward])
    x, y, z = ((points_m - view.position_m) @ axes.T).T
    assert (z > 0).all()
    return np.stack([x / z / aspect, y / z], axis=1) / math.tan(view.fov / 2)


def test_the_first_selection_is_the_best_hypothesis_after_the_last_step(composer: Composer):
    assert Selection.first(composer.shown) == Selection(person=0, hypothesis=1, step=2)
    unscored = make_shown(scores=())
    assert Selection.first(unscored).hypothesis == 0
    failed = make_shown(scores=(None,) * GROUP)
    assert Selection.first(failed).hypothesis == 0


def test_the_picture_is_seen_where_the_photograph_is(alone: Composer, body: Body):
    (panel,) = alone.panels(Selection.first(alone.shown))
    corners = [[0, 0], [CAMERA.width, 0], [CAMERA.width, CAMERA.height], [0, CAMERA.height]]
    np.testing.assert_allclose(project(panel.picture.corners_m), corners, atol=1e-3)
    middle = (panel.picture.corners_m[0] + panel.picture.corners_m[2]) / 2
    np.testing.assert_allclose(panel.picture.center_m, middle)
    assert all(mesh.vertices_m[:, 2].max() < middle[2] for mesh in panel.meshes.values())


@pytest.mark.parametrize("step", [1, 2])
def test_the_selected_body_is_that_of_its_step(composer: Composer, body: Body, step: int):
    selection = dataclasses.replace(Selection.first(composer.shown), step=step, person=1, hypothesis=2)
    for number, panel in enumerate(composer.panels(selection)):
        params = composer.shown.people[1].sources[number].steps[step - 1]
        assert set(panel.meshes) == {"2", "person 0"}
        np.testing.assert_allclose(panel.meshes["2"].vertices_m, body(params[2]).vertices_cam_m, atol=1e-5)


def test_a_source_with_fewer_steps_shows_its_last(body: Body):
    source = make_shown().people[0].sources[0]
    assert torch.equal(source.at(99).transl, source.steps[-1].transl)
    assert torch.equal(source.at(1).transl, source.steps[0].transl)


def test_scores_colour_the_bodies_of_the_source_that_has_them(composer: Composer):
    selection = dataclasses.replace(Selection.first(composer.shown), arrangement=IN_PLACE)
    scored, other = composer.panels(selection)
    assert [scored.meshes[str(index)].color for index in range(GROUP)] == [
        score_color(20.0), score_color(90.0), score_color(None),
    ]  # fmt: skip
    assert {other.meshes[str(index)].color for index in range(GROUP)} == {CLAY}
    assert [scored.meshes[str(index)].opacity == 1 for index in range(GROUP)] == [False, True, False]


def test_in_a_row_the_selected_body_keeps_its_place_and_none_overlap(composer: Composer):
    first = Selection.first(composer.shown)
    (before, _), (row, below) = (
        composer.panels(dataclasses.replace(first, arrangement=arrangement))
        for arrangement in (IN_PLACE, IN_A_ROW)
    )
    np.testing.assert_allclose(row.meshes["1"].vertices_m, before.meshes["1"].vertices_m, atol=1e-5)
    spans = [
        (mesh.vertices_m[:, 0].min(), mesh.vertices_m[:, 0].max()) for _, mesh in sorted(row.meshes.items())
    ]
    assert len(spans) == GROUP
    assert all(left[1] < right[0] for left, right in pairwise(spans))
    assert [label.text for label in row.labels] == ["policy 0", "0: 20", "1: 90", "2: no score"]
    assert [label.text for label in below.labels] == ["policy 1", "0", "1", "2"]
    assert below.bounds_m()[0, 1] > before.picture.corners_m[:, 1].min()


def test_skeleton_and_observed_points_are_shown_on_request(alone: Composer, body: Body):
    first = Selection.first(alone.shown)
    (plain,) = alone.panels(first)
    assert (len(plain.bones_m), len(plain.observed_m), plain.meshes["1"].opacity) == (0, 0, 1.0)
    (panel,) = alone.panels(dataclasses.replace(first, skeleton=True, points=True))
    assert panel.bones_m.shape == (23, 2, 3)
    assert panel.meshes["1"].opacity < 1
    joints = body.joints(alone.shown.people[0].sources[0].steps[-1][1]).numpy()
    np.testing.assert_allclose(panel.bones_m[0], joints[[0, 1]], atol=1e-5)  # pelvis and left hip
    detection = alone.shown.people[0].person.detection
    seen = detection.observed & (detection.visibility > 0.5)
    assert int(seen.sum()) == 4
    np.testing.assert_allclose(project(panel.observed_m), detection.points_px[seen], atol=1e-2)
    assert panel.observed_m[:, 2].max() < panel.picture.center_m[2]


def test_panels_are_beside_each_other_and_bodies_stay_over_their_pictures(composer: Composer):
    """Turned about the camera's centre, a panel looks from there as before."""
    panels = composer.panels(Selection.first(composer.shown))
    turned = [panel.placed_m(panel.picture.corners_m) for panel in panels]
    edges = [
        (np.arctan2(x, z).min(), np.arctan2(x, z).max()) for x, _, z in (corners.T for corners in turned)
    ]
    assert edges[0][1] < edges[1][0]
    for panel, corners in zip(panels, turned, strict=True):
        np.testing.assert_allclose(
            np.linalg.norm(corners, axis=1), np.linalg.norm(panel.picture.corners_m, axis=1)
        )
        np.testing.assert_allclose(panel.offset_m, 0)


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("sources", [1, 2])
def test_the_first_view_has_all_pictures_in_the_window(body: Body, aspect: float, sources: int):
    composer = Composer(make_shown(sources), body)
    selection = Selection.first(composer.shown)
    panels = composer.panels(selection)
    view = camera_view(panels, composer.pelvis_m(selection), aspect)
    corners = np.concatenate([panel.placed_m(panel.picture.corners_m) for panel in panels])
    reach = np.abs(on_screen(view, corners, aspect)).max()
    assert 0.9 < reach < 1.0
    np.testing.assert_allclose(view.position_m, 0)


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("arrangement", [IN_PLACE, IN_A_ROW])
def test_the_overview_has_everything_in_the_window(composer: Composer, aspect: float, arrangement: str):
    panels = composer.panels(dataclasses.replace(Selection.first(composer.shown), arrangement=arrangement))
    view = overview(panels, aspect)
    for panel in panels:
        shown = [panel.picture.corners_m, *(mesh.vertices_m for mesh in panel.meshes.values())]
        assert np.abs(on_screen(view, panel.placed_m(np.concatenate(shown)), aspect)).max() < 1.0


def test_the_side_view_looks_at_the_person(composer: Composer):
    selection = Selection.first(composer.shown)
    panel: Panel = composer.panels(selection)[0]
    pelvis = composer.pelvis_m(selection)
    view = side_view(panel, pelvis)
    np.testing.assert_allclose(on_screen(view, panel.placed_m(pelvis[None]), 1.3), 0, atol=1e-6)
