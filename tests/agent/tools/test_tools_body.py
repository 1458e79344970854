"""The tools that look at the bodies alone: ground contact, self contact, the priors, the consensus."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from agent.tools.capsules import fit_capsules, neutral_vertices, segment_distance
from agent.tools.ground_contact import GroundContact, center_of_mass, distance_outside_hull
from agent.tools.joint_distances import geometric_median
from agent.tools.joint_limits import JointLimits
from agent.tools.parts import JOINT_WORDS
from agent.tools.priors import DOF, PosePrior, ShapePrior, fit_pose_mixture
from agent.tools.self_contact import SelfContact
from hmr.types import BodyParams
from tests.agent.tools.tool_case import body, case_of, group_of, joint, standing


def segment(*ends: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(ends, dtype=torch.float32)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        (segment((0, 0, 0), (1, 0, 0)), segment((0.5, -1, 2), (0.5, 1, 2)), 2.0),  # crossing, 2 apart
        (segment((0, 0, 0), (1, 0, 0)), segment((0, 3, 0), (1, 3, 0)), 3.0),  # parallel
        (segment((0, 0, 0), (1, 0, 0)), segment((4, 4, 0), (9, 4, 0)), 5.0),  # ends: sqrt(3^2 + 4^2)
        (segment((0, 0, 0), (0, 0, 0)), segment((2, 0, 0), (2, 0, 0)), 2.0),  # two points
    ],
)
def test_segment_distance_of_known_pairs(a, b, distance):
    assert float(segment_distance(a, b)) == pytest.approx(distance)


def test_segment_distance_is_the_least_over_their_points():
    a, b = torch.randn(2, 50, 2, 3, generator=torch.Generator().manual_seed(0))
    steps = torch.linspace(0, 1, 101)[:, None]
    on_a, on_b = (s[:, None, 0] * (1 - steps) + s[:, None, 1] * steps for s in (a, b))
    brute = torch.cdist(on_a, on_b).amin(dim=(1, 2))
    torch.testing.assert_close(segment_distance(a, b), brute, atol=2e-2, rtol=0)
    torch.testing.assert_close(segment_distance(a, b), segment_distance(b, a))


def test_capsules_follow_the_skin():
    skin_m = neutral_vertices(body())
    model = fit_capsules(body())
    plain, grown = model.pose(skin_m), model.pose(2 * skin_m + 1)
    torch.testing.assert_close(grown.ends_m, 2 * plain.ends_m + 1, atol=1e-4, rtol=0)
    torch.testing.assert_close(grown.radius_m, 2 * plain.radius_m, atol=1e-4, rtol=0)


def test_no_body_shape_penetrates_itself_at_rest():
    betas = 2 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    bodies = BodyParams(torch.zeros(8, 3), torch.zeros(8, 23, 3), betas, torch.tensor([[0.0, 0.0, 4.0]] * 8))
    assert max(SelfContact().measure(case_of(bodies)).values) < 10.0


def test_self_contact_names_both_parts():
    body_pose = standing().body_pose.clone()
    body_pose[joint("left_shoulder")] = torch.tensor([0.0, 0.0, -2.0])
    evidence = SelfContact().measure(case_of(group_of(dataclasses.replace(standing(), body_pose=body_pose))))
    assert "left forearm" in evidence.parts[-1]
    assert " into the " in evidence.sentences[-1]


def test_distance_outside_a_square():
    square = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).expand(3, 4, 2)
    points = torch.tensor([[3.0, 0.5], [0.5, 0.5], [0.5, -0.25]])
    gap, direction = distance_outside_hull(points, square, torch.ones(3, 4, dtype=torch.bool))
    assert gap.tolist() == pytest.approx([2.0, 0.0, 0.25])
    assert direction[[0, 2]].tolist() == [0, 24]  # +x; three quarters of a turn on, -y


def test_distance_outside_a_hull_uses_chosen_points_only():
    cloud = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
    gap, _ = distance_outside_hull(torch.tensor([[2.0, 0.0]]), cloud, torch.tensor([[True, False]]))
    assert float(gap) == pytest.approx(2.0)


def test_center_of_mass_weighs_the_whole_body():
    point = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(center_of_mass(point.expand(24, 3)), point)  # the shares sum to 1
    lifted = torch.zeros(24, 3)
    lifted[[18, 20, 22], 1] = 1.0  # left elbow, wrist and hand
    # upper arm 2.71 x .58 + forearm 1.62 + hand .61, of 100
    assert float(center_of_mass(lifted)[1]) == pytest.approx((2.71 * 0.58 + 1.62 + 0.61) / 100)


def sitting() -> BodyParams:
    body_pose = standing().body_pose.clone()
    for side in ("left", "right"):
        body_pose[joint(f"{side}_hip"), 0], body_pose[joint(f"{side}_knee"), 0] = -1.5, 1.5
    return dataclasses.replace(standing(), body_pose=body_pose)


def low() -> BodyParams:
    """Feet below the image's lower edge."""
    return dataclasses.replace(standing(), transl=torch.tensor([0.0, 1.0, 4.0]))


@pytest.mark.parametrize("unknown", [sitting, low])
def test_ground_contact_has_no_value_if_the_support_may_be_hidden(unknown):
    evidence = GroundContact().measure(case_of(group_of(unknown())))
    assert evidence.values[0] is not None
    assert evidence.values[-1] is None
    assert evidence.parts[-1] == ()


def test_ground_contact_names_the_direction_of_the_fall():
    forward = dataclasses.replace(standing(), global_orient=torch.tensor([torch.pi + 0.5, 0.0, 0.0]))
    backward = dataclasses.replace(standing(), global_orient=torch.tensor([torch.pi - 0.5, 0.0, 0.0]))
    evidence = GroundContact().measure(case_of(group_of(forward, backward)))
    said = " ".join(evidence.sentences[-2:])
    assert said.count("towards the camera") == said.count("away from the camera") == 1


def test_geometric_median_stays_with_the_majority():
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    torch.testing.assert_close(geometric_median(points), torch.zeros(2), atol=1e-2, rtol=0)


def test_geometric_median_is_the_fermat_point_of_a_triangle():
    angle = torch.arange(3) * (2 * torch.pi / 3)
    corners = torch.stack([angle.cos(), angle.sin()], dim=1) + 5
    torch.testing.assert_close(geometric_median(corners), torch.full((2,), 5.0))


def test_pose_mixture_is_the_textbook_density():
    mixture = fit_pose_mixture()
    angles = 0.3 * torch.randn(4, DOF, generator=torch.Generator().manual_seed(0))
    normals = torch.distributions.MultivariateNormal(
        mixture.mean_rad, scale_tril=torch.linalg.inv(mixture.whiten), validate_args=False
    )
    shares = torch.distributions.Categorical(logits=mixture.log_share)
    density = torch.distributions.MixtureSameFamily(shares, normals, validate_args=False)
    torch.testing.assert_close(
        mixture.evaluate(angles)[0], -density.log_prob(angles) / DOF, atol=1e-3, rtol=1e-3
    )


def test_pose_mixture_is_the_same_in_every_process():
    again = fit_pose_mixture.__wrapped__()  # past the cache
    torch.testing.assert_close(again.whiten, fit_pose_mixture().whiten, rtol=0, atol=0)


def test_the_pose_prior_names_the_least_common_rotation_without_praise():
    turned = standing()
    turned.body_pose[joint("left_knee")] = torch.tensor([0.0, 1.5, 0.0])
    evidence = PosePrior().measure(case_of(group_of(turned)))
    beginning = "Its least common joint rotation is that of the "
    assert all(sentence.startswith(beginning) for sentence in evidence.sentences)
    assert evidence.sentences[-1].startswith(f"{beginning}left knee, ")
    assert "left shin" in evidence.parts[-1]


def test_joints_have_different_words():
    assert len(set(JOINT_WORDS)) == len(JOINT_WORDS)
    assert {"left hand", "right forefoot"} < {*JOINT_WORDS}


def test_shape_prior_is_in_standard_deviations():
    heavy = dataclasses.replace(standing(), betas=torch.full((10,), 3.0))
    evidence = ShapePrior().measure(case_of(group_of(heavy)))
    assert evidence.values[-1] == pytest.approx(3.0)
    np.testing.assert_allclose(evidence.values[:-1], 0.0)


def bent_back(degrees: float) -> BodyParams:
    """Both knees bent the wrong way."""
    body_pose = standing().body_pose.clone()
    for side in ("left", "right"):
        body_pose[joint(f"{side}_knee"), 0] = -math.radians(degrees)
    return dataclasses.replace(standing(), body_pose=body_pose)


def test_the_sentence_about_joint_limits_agrees_with_the_value():
    """An excess below the threshold of a fault is an excess; a knee may be bent back by 10 degrees."""
    evidence = JointLimits().measure(case_of(group_of(bent_back(11.5), bent_back(40.0))))
    assert (evidence.values[0], evidence.parts[-2]) == (0.0, ())
    assert evidence.sentences[0] == "Every joint stays within its anatomical range."
    for value, sentence in zip(evidence.values[-2:], evidence.sentences[-2:], strict=True):
        assert value is not None
        assert value > 0
        assert sentence.endswith(f"beyond what a joint allows, all joints together {value:.1f}.")


def test_the_sentence_about_penetration_agrees_with_the_value():
    turned = standing().body_pose.clone()
    turned[joint("left_shoulder")] = torch.tensor([0.0, 0.0, -1.55])
    evidence = SelfContact().measure(case_of(group_of(dataclasses.replace(standing(), body_pose=turned))))
    for value, sentence in zip(evidence.values, evidence.sentences, strict=True):
        assert value is not None
        assert (value < 0.5) == (sentence == "No part of the body passes through another.")


def test_the_sentence_about_balance_agrees_with_the_value():
    lean = [
        dataclasses.replace(standing(), global_orient=torch.tensor([torch.pi + angle, 0.0, 0.0]))
        for angle in (-0.2, -0.12, -0.05, 0.3, 0.5)
    ]
    evidence = GroundContact().measure(case_of(group_of(*lean)))
    for value, sentence in zip(evidence.values, evidence.sentences, strict=True):
        assert value is not None
        assert sentence.startswith("The body balances") == (value < 0.5)
        assert sentence.endswith("it would fall over.") == (value > 100)
    assert any(0.5 < value < 100 for value in evidence.values if value is not None)
