"""Detections as the numbers that a policy is conditioned on."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hmr.policy.condition import (
    CONDITION_SIZE,
    DEPTH_FLOOR_M,
    FLOOR,
    PointEstimates,
    condition_of,
    pack_points,
    points_of,
    unpack_points,
)
from hmr.types import NUM_POINTS, POINT_NAMES, Box, Detection

SQUARE = Box(100.0, 50.0, 300.0, 250.0)  # half a side is 100 pixels


def detection() -> Detection:
    return Detection.from_points(
        ("nose", "left_wrist"),
        torch.tensor([[250.0, 150.0], [200.0, 100.0]]),
        torch.tensor([5.0, 100 * FLOOR]),
        torch.tensor([0.9, 0.4]),
        torch.tensor([-0.1, 0.2]),
        torch.tensor([DEPTH_FLOOR_M, math.inf]),
    )


def test_positions_are_in_crop_units() -> None:
    """The nose is 50 pixels right of the centre (200, 150) of a square of 200 pixels."""
    points = points_of([detection()], [SQUARE])
    nose, wrist = (POINT_NAMES.index(name) for name in ("nose", "left_wrist"))
    assert points.position[0, nose].tolist() == pytest.approx([0.5, 0.0])
    assert points.position[0, wrist].tolist() == pytest.approx([0.0, -0.5])


def test_a_deviation_of_the_floor_has_a_weight_of_one_over_root_two() -> None:
    points = points_of([detection()], [SQUARE])
    nose, wrist = (POINT_NAMES.index(name) for name in ("nose", "left_wrist"))
    assert float(points.weight[0, wrist]) == pytest.approx(1 / math.sqrt(2))
    assert float(points.depth_weight[0, nose]) == pytest.approx(1 / math.sqrt(2))
    assert float(points.depth_weight[0, wrist]) == 0


def test_what_is_not_observed_is_zero_wherever_it_is() -> None:
    found = detection()
    elsewhere = found.points_px + torch.where(found.observed, 0.0, 1e6)[:, None]
    moved = dataclasses.replace(found, points_px=elsewhere)
    first, second = (pack_points(points_of([each], [SQUARE])) for each in (found, moved))
    assert torch.equal(first, second)
    hidden = unpack_points(first)
    assert not pack_points(hidden).unflatten(-1, (NUM_POINTS, -1))[0, ~found.observed].any()


def test_points_come_back_from_a_condition() -> None:
    points = points_of([detection()], [SQUARE])
    condition = condition_of(points, torch.zeros(1, 3))
    assert condition.shape == (1, CONDITION_SIZE)
    for name in (field.name for field in dataclasses.fields(PointEstimates)):
        assert torch.equal(getattr(unpack_points(condition), name), getattr(points, name))


def test_a_point_far_outside_is_cut_off() -> None:
    far = dataclasses.replace(detection(), points_px=torch.full((NUM_POINTS, 2), 1e6))
    assert float(points_of([far], [SQUARE]).position.max()) == 3.0


def test_zooming_into_the_picture_changes_nothing() -> None:
    found = detection()
    zoomed = dataclasses.replace(found, points_px=2 * found.points_px, sigma_px=2 * found.sigma_px)
    larger = Box(200.0, 100.0, 600.0, 500.0)
    first, second = points_of([found], [SQUARE]), points_of([zoomed], [larger])
    torch.testing.assert_close(pack_points(first), pack_points(second))
