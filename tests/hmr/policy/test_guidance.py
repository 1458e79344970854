"""Laws of guidance, on an untrained policy and detections made by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from hmr.body.model import Body
from hmr.policy.guidance import DetectionGuidance, GuidanceConfig
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.types import JOINT_NAMES, Box, Camera, Detection, Sample

KEYPOINTS_ONLY = GuidanceConfig(silhouette=0.0)


@pytest.fixture
def features(tiny_policy: DiffusionPolicy) -> Features:
    images = np.random.default_rng(0).integers(0, 255, (2, 90, 120, 3), dtype=np.uint8)
    boxes = [Box(10.0, 5.0, 70.0, 85.0), Box(-20.0, 0.0, 60.0, 90.0)]
    camera = Camera.estimate(120, 90)
    return tiny_policy.encode([Sample("x", *pair, camera) for pair in zip(images, boxes, strict=True)])


@pytest.fixture
def x0() -> torch.Tensor:
    return 0.3 * torch.randn(2, 3, 157, generator=torch.Generator().manual_seed(0))


def detection(keypoints_px: torch.Tensor, confidence: float = 1.0, sigma_px: float = 2.0) -> Detection:
    """All is person, so that the silhouette is silent."""
    ones = torch.ones(24)
    return masked(
        keypoints_px, sigma_px * ones, confidence * ones, np.ones((8, 8)), Box(0.0, 0.0, 90.0, 90.0)
    )


def masked(
    keypoints_px: torch.Tensor, sigma_px: torch.Tensor, visibility: torch.Tensor, mask: np.ndarray, box: Box
) -> Detection:
    return Detection.from_points(JOINT_NAMES, keypoints_px, sigma_px, visibility, mask=mask, mask_box=box)


def projected(policy: DiffusionPolicy, body: Body, x0: torch.Tensor, features: Features) -> torch.Tensor:
    """By the house's own camera, which guidance must agree with."""
    params = policy.from_x0(x0, features)
    cameras = [Camera(*row[:3].tolist(), 120, 90) for row in features.geometry]
    return torch.stack([camera.project(body.joints(params[i])) for i, camera in enumerate(cameras)])


def guidance(
    policy: DiffusionPolicy, body: Body, features: Features, keypoints_px: torch.Tensor, **changes: float
) -> DetectionGuidance:
    confidence = changes.pop("confidence", 1.0)
    config = dataclasses.replace(KEYPOINTS_ONLY, **changes)
    found = [detection(row, confidence) for row in keypoints_px]
    return DetectionGuidance(policy, body, features, found, config)


def test_it_is_a_guidance(tiny_policy, body, features):
    assert isinstance(guidance(tiny_policy, body, features, torch.zeros(2, 24, 2)), Guidance)


def test_a_body_on_its_keypoints_costs_nothing_and_stays(tiny_policy, body, features, x0):
    """Hypothesis 1 of each image lies on the keypoints that are its own projection."""
    on_it = guidance(tiny_policy, body, features, projected(tiny_policy, body, x0, features)[:, 1])
    cost = on_it.cost(x0, x0)
    assert cost.shape == (2, 3)
    assert cost[:, 1].max() < 1e-4
    assert cost[:, [0, 2]].min() > 0.1
    torch.testing.assert_close(on_it.guide(x0, 0)[:, 1], x0[:, 1], atol=1e-2, rtol=0)


def test_a_cost_by_hand(tiny_policy, body, features, x0):
    """Every keypoint is 3 px right of its joint. The crop's side is 1.2 x 80 = 96 px: the floor is .03 x 48 = 1.44 px.

    deviation^2 = 2^2 + 1.44^2 = 6.0736; r^2 = 9 / 6.0736 = 1.48182; rho^2 = r^2 / (1 + r^2 / 4^2) = 1.35622; the sum of
    24 halves is 16.2747, and half of that where the confidence is 1/2.
    """
    moved = projected(tiny_policy, body, x0, features)[:, 1] + torch.tensor([3.0, 0.0])
    for confidence in (1.0, 0.5):
        cost = guidance(tiny_policy, body, features, moved, confidence=confidence).cost(x0, x0)
        assert float(cost[0, 1].detach()) == pytest.approx(16.2747 * confidence, rel=1e-3)


def test_guiding_lowers_the_cost_and_touches_no_neighbour(tiny_policy, body, features, x0):
    target = projected(tiny_policy, body, torch.zeros(2, 1, 157), features)[:, 0]
    whole = guidance(tiny_policy, body, features, target)
    better = whole.guide(x0, 0)
    assert (whole.cost(better, x0) < whole.cost(x0, x0)).all()
    alone = guidance(tiny_policy, body, features[1:], target[1:]).guide(x0[1:, 2:], 0)
    torch.testing.assert_close(alone[0, 0], better[1, 2], atol=1e-4, rtol=1e-3)


def test_nothing_seen_guides_nowhere(tiny_policy, body, features, x0):
    blind = guidance(tiny_policy, body, features, torch.zeros(2, 24, 2), confidence=0.0)
    assert torch.equal(blind.guide(x0, 0), x0)


def test_early_steps_are_left_alone(tiny_policy, body, features, x0):
    late = guidance(tiny_policy, body, features, torch.zeros(2, 24, 2), last_steps=2)
    assert late.guide(x0, 2) is x0
    assert not torch.equal(late.guide(x0, 1), x0)


def test_a_step_is_no_longer_than_its_length(tiny_policy, body, features, x0):
    once = guidance(tiny_policy, body, features, torch.zeros(2, 24, 2), iterations=1, step=0.25, last_steps=1)
    lengths = (once.guide(x0, 0) - x0).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((2, 3), 0.25))


def test_a_mask_pulls_the_body_onto_itself(tiny_policy, body, features, x0):
    """The person is in the right half of the box alone; keypoints are silent."""
    mask = np.zeros((8, 8))
    mask[:, 6:] = 1
    box = Box(0.0, 0.0, 90.0, 90.0)
    found = [masked(torch.zeros(24, 2), torch.ones(24), torch.zeros(24), mask, box)] * 2
    config = GuidanceConfig(silhouette=50.0, step=0.5, iterations=8)
    guided = DetectionGuidance(tiny_policy, body, features, found, config).guide(x0, 0)
    before, after = (projected(tiny_policy, body, value, features)[..., 0].mean(-1) for value in (x0, guided))
    assert (after > before).all()


def test_an_empty_mask_says_nothing(tiny_policy, body, features, x0):
    found = [
        masked(torch.zeros(24, 2), torch.ones(24), torch.zeros(24), np.zeros((8, 8)), Box(0.0, 0.0, 9.0, 9.0))
    ]
    silent = DetectionGuidance(tiny_policy, body, features, found * 2, GuidanceConfig(silhouette=50.0))
    assert torch.equal(silent.guide(x0, 0), x0)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_sampling_follows_its_guidance(tiny_policy, body, features, solver: str):
    """And no truth is asked for: detections are all that guidance is given."""
    tiny_policy.config.solver = solver
    target = projected(tiny_policy, body, torch.zeros(2, 1, 157), features)[:, 0]
    pull = guidance(tiny_policy, body, features, target, step=0.5, iterations=8)
    off = []
    for chosen in (None, pull):
        groups = tiny_policy.sample(features, 4, torch.Generator().manual_seed(0), guidance=chosen)
        pixels = torch.stack([group.camera.project(body.joints(group.params)) for group in groups])
        off.append((pixels - target[:, None]).norm(dim=-1).mean())
    assert off[1] < 0.8 * off[0]


def test_guidance_that_changes_nothing_samples_the_same(tiny_policy, features):
    class Idle:
        def guide(self, x0: torch.Tensor, steps_left: int) -> torch.Tensor:
            return x0

    alone, idle = (
        tiny_policy.sample(features, 4, torch.Generator().manual_seed(0), guidance=chosen)[0].params
        for chosen in (None, Idle())
    )
    torch.testing.assert_close(idle.betas, alone.betas, atol=1e-4, rtol=1e-4)


def test_a_detection_is_needed_for_every_image(tiny_policy, body, features):
    with pytest.raises(ValueError, match="2 images need as many detections, not 1"):
        DetectionGuidance(tiny_policy, body, features, [detection(torch.zeros(24, 2))])


# -- 3D joints -----------------------------------------------------------------------------------------------

JOINTS_ONLY = GuidanceConfig(keypoints=0.0, silhouette=0.0, joints=1.0)


def roots(policy: DiffusionPolicy, body: Body, x0: torch.Tensor, features: Features) -> torch.Tensor:
    joints_m = body.joints(policy.from_x0(x0, features))
    return joints_m - joints_m[..., :1, :]


def with_joints(joints_root_m: torch.Tensor) -> Detection:
    return dataclasses.replace(detection(torch.zeros(24, 2), 0.0), joints_root_m=joints_root_m)


def test_a_cost_of_joints_by_hand(tiny_policy, body, features, x0):
    """Every joint but the pelvis is .05 m off, half a deviation: r^2 = .25; rho^2 = .25 / (1 + .25 / 16) = .246154;
    the sum of 23 halves is 2.83077, doubled by the weight."""
    moved = roots(tiny_policy, body, x0, features)[:, 1]
    moved[:, 1:, 0] += 0.05
    config = dataclasses.replace(JOINTS_ONLY, joints=2.0, joints_deviation_m=0.1)
    pull = DetectionGuidance(tiny_policy, body, features, [with_joints(row) for row in moved], config)
    assert float(pull.cost(x0, x0)[0, 1].detach()) == pytest.approx(2 * 2.83077, rel=1e-3)


def test_the_curvature_is_that_of_a_cost_near_its_minimum(tiny_policy, body, features, x0):
    """At the minimum Gauss-Newton is exact, so a second difference of the cost gives the same number."""
    joints, pixels = (f(tiny_policy, body, x0, features)[:, 1] for f in (roots, projected))
    found = [
        dataclasses.replace(detection(points), joints_root_m=row)
        for row, points in zip(joints, pixels, strict=True)
    ]
    config = GuidanceConfig(silhouette=0.0, joints=3.0, prior=0.0)
    pull = DetectionGuidance(tiny_policy, body, features, found, config)
    direction = torch.nn.functional.normalize(
        torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    step = 0.02
    ahead, behind = (pull.cost(x0 + sign * step * direction, x0)[:, 1] for sign in (1, -1))
    expected = (ahead + behind) / step**2
    torch.testing.assert_close(pull._curvature(x0, direction)[:, 1], expected, rtol=0.05, atol=0)


def test_guided_samples_come_closer_to_the_given_joints(tiny_policy, body, features):
    target = roots(tiny_policy, body, torch.zeros(2, 1, 157), features)[:, 0]
    pull = DetectionGuidance(tiny_policy, body, features, [with_joints(row) for row in target], JOINTS_ONLY)
    off = []
    for chosen in (None, pull):
        groups = tiny_policy.sample(features, 4, torch.Generator().manual_seed(0), guidance=chosen)
        joints_m = torch.stack([body.joints(group.params) for group in groups])
        off.append((joints_m - joints_m[..., :1, :] - target[:, None]).norm(dim=-1).mean())
    assert off[1] < 0.7 * off[0]


def test_a_detection_without_joints_is_guided_as_before(tiny_policy, body, features, x0):
    """Also beside one that has joints."""
    target = projected(tiny_policy, body, torch.zeros(2, 1, 157), features)[:, 0]
    without = [detection(row) for row in target]
    first = dataclasses.replace(without[0], joints_root_m=torch.randn(24, 3))
    plain = DetectionGuidance(tiny_policy, body, features, without, KEYPOINTS_ONLY).guide(x0, 0)
    config = dataclasses.replace(KEYPOINTS_ONLY, joints=5.0)
    mixed = DetectionGuidance(tiny_policy, body, features, [first, without[1]], config).guide(x0, 0)
    assert torch.equal(mixed[1], plain[1])
    assert not torch.allclose(mixed[0], plain[0])
    off = DetectionGuidance(tiny_policy, body, features, [first, without[1]], KEYPOINTS_ONLY).guide(x0, 0)
    assert torch.equal(off, plain)
