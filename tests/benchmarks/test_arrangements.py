"""Pairs of people and their faults by the seed, and how often the true arrangement is preferred."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.critic import arrangements
from benchmarks.critic.arrangements import Observer
from benchmarks.critic.people_scenes import FAULTS, IMAGE_PX, MIN_GAP_M, MIN_VISIBLE, PairScene, PairScenes
from tests.agent.tools.tool_case import body

KEEP_PROJECTION = ("swapped", "one rescaled")


@pytest.fixture(scope="module")
def scenes() -> PairScenes:
    return PairScenes(body(), 5)


@pytest.fixture(scope="module")
def scene(scenes: PairScenes) -> PairScene:
    """The first in which one hides a part of the other."""
    return next(drawn for drawn in map(scenes.draw, range(20)) if drawn.overlap)


@pytest.mark.slow
def test_the_same_seed_and_number_give_the_same_scene(scenes: PairScenes, scene: PairScene) -> None:
    number = int(scene.name.split("/")[1])
    again = PairScenes(body(), 5).draw(number)
    assert torch.equal(again.posed.vertices_cam_m, scene.posed.vertices_cam_m)
    assert np.array_equal(scenes.picture(again), scenes.picture(scene))
    assert not torch.equal(PairScenes(body(), 6).draw(number).params.transl, scene.params.transl)


def test_both_stand_on_one_floor_apart_and_visible(scenes: PairScenes) -> None:
    for drawn in map(scenes.draw, range(4)):
        lowest_m = (drawn.posed.vertices_cam_m @ drawn.up).amin(dim=1)
        assert float(lowest_m[0]) == pytest.approx(float(lowest_m[1]), abs=1e-3)
        first, second = drawn.posed.vertices_cam_m
        assert float(torch.cdist(first, second[::10]).min()) > MIN_GAP_M
        shown = drawn.visible.sum(axis=(1, 2)) / drawn.frame.mask.sum(axis=(1, 2))
        assert (shown >= MIN_VISIBLE).all()


def test_a_pixel_shows_the_nearer_one(scene: PairScene) -> None:
    both = scene.frame.mask.all(axis=0)
    nearer = scene.frame.depth_m[:, both].argmin(axis=0)
    assert np.array_equal(scene.visible[:, both].argmax(axis=0), nearer)
    assert (scene.visible.sum(axis=0) <= 1).all()


@pytest.mark.parametrize("name", FAULTS)
def test_faults_move_bodies_and_keep_projections_where_they_say_so(scenes: PairScenes, name: str) -> None:
    moved = 0
    for drawn in map(scenes.draw, range(6)):
        wrong = FAULTS[name](drawn.posed, drawn.up, np.random.default_rng(0))
        if wrong is None:
            continue
        moved += 1
        change_m = (wrong.joints_cam_m - drawn.posed.joints_cam_m).norm(dim=-1).mean()
        assert float(change_m) > 0.1
        if name in KEEP_PROJECTION:
            before, after = (drawn.camera.project(posed.vertices_cam_m) for posed in (drawn.posed, wrong))
            assert float((before - after).abs().max()) < 0.05  # pixels
    assert moved >= 2


def test_exact_detections_see_what_is_not_hidden(scenes: PairScenes, scene: PairScene) -> None:
    for row, detection in enumerate(Observer(scenes, "exact", "true").detect(scene)):
        assert detection is not None
        assert detection.mask is not None
        assert np.array_equal(detection.mask > 0, scene.visible[row])
        x, y = detection.keypoints_px.long().clamp(0, IMAGE_PX - 1).unbind(dim=-1)
        seen = detection.keypoint_visibility > 0.5
        hidden = torch.from_numpy(scene.frame.mask[row] & ~scene.visible[row])[y, x]
        assert not bool((seen & hidden).any())


def test_simulated_detections_have_no_masks(scenes: PairScenes, scene: PairScene) -> None:
    observer = Observer(scenes, "simulated", "true")
    first, again = observer.detect(scene), observer.detect(scene)
    assert all(one is not None and one.mask is None for one in first)
    assert torch.equal(first[0].points_px, again[0].points_px)  # pyright: ignore


@pytest.mark.slow
def test_the_true_arrangement_is_preferred(monkeypatch, capsys) -> None:
    """On scenes of another seed than those that the scales were set on, by the command."""
    monkeypatch.setattr(sys, "argv", ["arrangements", "--pairs", "12", "--seed", "3", "--json"])
    monkeypatch.setattr(arrangements, "interpenetration_ms", lambda: 0.0)
    arrangements.main()
    found = json.loads(capsys.readouterr().out)
    assert found["rates"].keys() == FAULTS.keys()
    assert found["all"]["pairs"] >= 50
    assert found["all"]["rate"] >= 0.9


def test_equal_scores_are_no_preference(monkeypatch) -> None:
    found = arrangements.run(3, 3, "none", "true", tools=())
    assert found["all"]["right"] == 0  # pyright: ignore
