"""Simulated detectors: what they report, and errors of the stated size and structure."""

from __future__ import annotations

import pytest
import torch

from hmr.policy.condition import FLOOR, PointEstimates
from hmr.synthetic.detector_noise import PROFILES, observe
from hmr.types import JOINT_NAMES, NUM_POINTS, POINT_NAMES

COUNT = 3000


def truth() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    points = 0.5 * torch.randn(COUNT, NUM_POINTS, 2, generator=generator)
    depth_m = 0.25 * torch.randn(COUNT, NUM_POINTS, generator=generator)
    return points, depth_m - depth_m[:, :1]


def report(name: str, visible: bool = True) -> PointEstimates:
    points, depth_m = truth()
    mask = torch.full((COUNT, NUM_POINTS), visible)
    return observed(points, depth_m, mask, name)


def observed(points: torch.Tensor, depth_m: torch.Tensor, visible: torch.Tensor, name: str) -> PointEstimates:
    generator = torch.Generator().manual_seed(0)
    return PointEstimates.from_sigma(
        *observe(points, depth_m, visible, torch.ones(COUNT), generator, (name,))
    )


def sigma_of(weight: torch.Tensor, floor: float) -> torch.Tensor:
    return floor * (weight**-2 - 1).clamp_min(0).sqrt()


@pytest.mark.parametrize("name", PROFILES)
def test_only_the_detector_s_points_are_reported(name: str) -> None:
    reported = (report(name).weight > 0).any(dim=0)
    assert {point for point, known in zip(POINT_NAMES, reported, strict=True) if known} == set(
        PROFILES[name].points
    )


@pytest.mark.parametrize("name", PROFILES)
def test_depths_are_reported_as_often_as_the_profile_says(name: str) -> None:
    first = POINT_NAMES.index(PROFILES[name].points[0])
    share = float((report(name).depth_weight[:, first] > 0).float().mean())
    assert share == pytest.approx(PROFILES[name].depth, abs=0.03)


def test_a_stated_deviation_is_about_the_error() -> None:
    points, _ = truth()
    found = report("precise")
    error = (found.position - points).square().mean(dim=-1).sqrt()
    ratio = error / sigma_of(found.weight, FLOOR)
    assert 0.6 < float(ratio.median()) < 1.1


def test_hidden_points_are_less_certain() -> None:
    seen, hidden = (report("embedded", visible) for visible in (True, False))
    assert float(hidden.weight.mean()) < 0.9 * float(seen.weight.mean())
    assert float(hidden.visibility.mean()) < 0.5 < float(seen.visibility.mean())


def test_depths_are_posterior_means() -> None:
    """A calibrated mean: the truth regressed on the report has slope 1, the report on the truth less."""
    _, depth_m = truth()
    found = report("embedded")
    ends = [
        JOINT_NAMES.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("ankle", "wrist")
    ]
    kept = found.depth_weight[:, ends] > 0
    true, reported = depth_m[:, ends][kept], found.depth_m[:, ends][kept]
    assert float((true * reported).sum() / true.square().sum()) < 0.85
    assert float((true * reported).sum() / reported.square().sum()) > 0.75


def test_depth_errors_of_a_limb_are_one_error() -> None:
    """Of points at the same true depth, so that shrinking does not differ."""
    points, _ = truth()
    flat = torch.zeros(COUNT, NUM_POINTS)
    visible = torch.ones(COUNT, NUM_POINTS, dtype=torch.bool)
    found = observed(points, flat, visible, "embedded")
    knee, ankle, wrist = (JOINT_NAMES.index(f"left_{name}") for name in ("knee", "ankle", "wrist"))
    kept = found.depth_weight[:, ankle] > 0
    correlation = torch.corrcoef(found.depth_m[kept][:, [knee, ankle, wrist]].T)
    assert float(correlation[0, 1]) > 0.8
    assert abs(float(correlation[0, 2])) < 0.1


def test_errors_of_neighbouring_joints_agree() -> None:
    points, _ = truth()
    error = (report("embedded").position - points)[..., 0].clamp(-1, 1)
    knee, ankle, wrist = (JOINT_NAMES.index(f"left_{name}") for name in ("knee", "ankle", "wrist"))
    correlation = torch.corrcoef(error[:, [knee, ankle, wrist]].T)
    assert float(correlation[0, 1]) > abs(float(correlation[0, 2])) + 0.1


def test_legs_are_exchanged_as_often_as_the_profile_says() -> None:
    """Left and right ankles a unit apart: an exchanged ankle is reported half of the way or more to the other."""
    points = torch.zeros(COUNT, NUM_POINTS, 2)
    left, right = (JOINT_NAMES.index(f"{side}_ankle") for side in ("left", "right"))
    points[:, left, 0], points[:, right, 0] = -0.5, 0.5
    visible = torch.ones(COUNT, NUM_POINTS, dtype=torch.bool)
    found = observed(points, points[..., 0] * 0, visible, "blazepose")
    both = (found.position[:, left, 0] > 0) & (found.position[:, right, 0] < 0)
    assert (
        0.2 * PROFILES["blazepose"].exchanged
        < float(both.float().mean())
        < 1.5 * PROFILES["blazepose"].exchanged
    )
