"""Tools that use the image: reprojection, layout, silhouette and colours, on examples checked by hand."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from agent.tools.appearance import Appearance
from agent.tools.reprojection import KeypointLayout, Reprojection
from agent.tools.silhouette import Silhouette, person_probability
from agent.types import Case
from hmr.types import JOINT_NAMES, BodyParams, Box, Camera, Detection, Frame, Hypotheses
from tests.agent.tools.tool_case import body, case_of, group_of, standing


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(group_of())


def seeing(case: Case, **changes: torch.Tensor) -> Case:
    """The case with other joints of its detection: `points_px`, `sigma_px` or `visibility`."""
    assert case.detection is not None
    full = {name: getattr(case.detection, name).clone() for name in changes}
    for name, values in changes.items():
        full[name][: len(values)] = values
    return dataclasses.replace(case, detection=dataclasses.replace(case.detection, **full))


def shifted_keypoints(case: Case, names: tuple[str, ...], percent: float) -> torch.Tensor:
    assert case.detection is not None
    keypoints = case.detection.keypoints_px.clone()
    keypoints[[JOINT_NAMES.index(name) for name in names], 0] += percent / 100 * case.sample.box.side
    return keypoints


def test_reprojection_of_joints_all_equally_wrong(case):
    moved = seeing(case, points_px=shifted_keypoints(case, JOINT_NAMES, 10.0))
    # all weights alike: 10 / sqrt(1 + (10 / 25)^2) = 9.28
    assert Reprojection().measure(moved).values[0] == pytest.approx(9.2848, abs=1e-3)


def test_one_wrong_keypoint_does_not_dominate_reprojection(case):
    far = seeing(case, points_px=shifted_keypoints(case, ("left_wrist",), 1000.0))
    # one joint of 24 saturates at 25 %: 25 / 24 = 1.04
    assert Reprojection().measure(far).values[0] == pytest.approx(25 / 24, rel=1e-2)


def test_reprojection_names_the_limb_that_ends_at_the_worst_joint(case):
    moved = seeing(case, points_px=shifted_keypoints(case, ("left_wrist",), 14.0))
    evidence = Reprojection().measure(moved)
    assert evidence.sentences[0] == "Left forearm lands 14 % of the box away from the detected left wrist."
    assert evidence.parts[0] == ("left forearm",)


def test_reprojection_ignores_joints_the_detector_does_not_see(case):
    confidence = torch.full((24,), 0.9)
    confidence[JOINT_NAMES.index("left_wrist")] = 0.0
    wrong = seeing(case, points_px=shifted_keypoints(case, ("left_wrist",), 50.0), visibility=confidence)
    evidence = Reprojection().measure(wrong)
    assert evidence.values[0] == pytest.approx(0.0, abs=1e-4)
    assert evidence.parts[0] == ()


def test_reprojection_trusts_a_sharp_keypoint_more_than_a_vague_one(case):
    sigma = torch.full((24,), 2.0)
    sigma[JOINT_NAMES.index("left_wrist")] = 20.0
    keypoints = shifted_keypoints(case, ("left_wrist",), 20.0)
    vague = Reprojection().measure(seeing(case, points_px=keypoints, sigma_px=sigma)).values[0]
    sharp = Reprojection().measure(seeing(case, points_px=keypoints)).values[0]
    assert vague is not None
    assert sharp is not None
    assert vague < sharp / 5


def test_reprojection_has_no_value_where_no_joint_is_seen(case):
    blind = Reprojection().measure(seeing(case, visibility=torch.full((24,), 0.01)))
    assert set(blind.values) == {None}
    assert blind.parts[0] == ()


def checkers(case: Case, drawn: np.ndarray, person: np.ndarray, confidence: float) -> Case:
    """A case whose view is the whole 4 x 4 image: body pixels `drawn`, person probability `person`."""
    whole = Box(0.0, 0.0, 4.0, 4.0)
    camera = Camera(4.0, 2.0, 2.0, 4, 4)
    frame = Frame(
        depth_m=drawn[None].astype(np.float32),
        normals_cam=np.zeros((1, 4, 4, 3), np.float32),
        mask=drawn[None],
        face_ids=np.where(drawn, 0, -1)[None].astype(np.int32),
    )
    detection = Detection.from_points(
        JOINT_NAMES,
        torch.zeros(24, 2),
        torch.ones(24),
        torch.full((24,), confidence),
        mask=person.astype(np.float32),
        mask_box=whole,
    )
    sample = dataclasses.replace(case.sample, image=np.zeros((4, 4, 3), np.uint8), box=whole, camera=camera)
    hypotheses = Hypotheses(case.hypotheses.params[:1], camera)
    return Case(sample, hypotheses, body(), case.posed, camera, frame, detection)


def test_the_keypoint_layout_ignores_translation_and_scale(case):
    assert case.detection is not None
    elsewhere = 0.7 * case.detection.keypoints_px + torch.tensor([40.0, -25.0])
    assert KeypointLayout().measure(seeing(case, points_px=elsewhere)).values[0] == pytest.approx(0, abs=1e-3)


def test_the_alignment_of_the_layout_spreads_one_wrong_keypoint(case):
    moved = seeing(case, points_px=shifted_keypoints(case, ("left_wrist",), 14.0))
    layout, reprojection = KeypointLayout().measure(moved), Reprojection().measure(moved)
    assert layout.parts[0] == ("left forearm",)
    # the best move takes 1 / 24 of the shift, and scale little more: the wrist is still 10 to 13.4 % off
    assert "lands 1" in layout.sentences[0]
    assert reprojection.sentences[0] != layout.sentences[0]
    assert None not in layout.values


def test_the_layout_has_no_value_where_no_joint_is_seen(case):
    blind = seeing(case, visibility=torch.zeros(24))
    assert KeypointLayout().measure(blind).values == (None,) * len(case)


def test_silhouette_counts_missed_pixels_in_full_and_excess_by_confidence(case):
    person, drawn = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    person[:, :2] = True  # the left half, 8 pixels
    drawn[:, 1:3] = True  # the middle, 8 pixels
    # covered 4, missed 4, excess 4 at confidence 0.5 = 2: 1 - 4 / (4 + 4 + 2) = 0.6
    assert Silhouette().measure(checkers(case, drawn, person, 0.5)).values[0] == pytest.approx(0.6)
    # surely seen: 1 - 4 / (4 + 4 + 4), the plain IoU
    assert Silhouette().measure(checkers(case, drawn, person, 1.0)).values[0] == pytest.approx(2 / 3)
    # surely hidden: excess keeps a floor of 0.2, 1 - 4 / (4 + 4 + 0.8)
    hidden = Silhouette().measure(checkers(case, drawn, person, 0.0))
    assert hidden.values[0] == pytest.approx(1 - 4 / 8.8)


def test_silhouette_has_no_value_where_nobody_is_seen(case):
    drawn = np.ones((4, 4), bool)
    assert Silhouette().measure(checkers(case, drawn, np.zeros((4, 4)), 0.9)).values == (None,)


def test_silhouette_ignores_what_lies_outside_the_image(case):
    narrow = dataclasses.replace(case.sample, image=case.sample.image[:, :128])
    probability, inside = person_probability(dataclasses.replace(case, sample=narrow), case.detection)
    assert not probability[:, 60:].any()
    assert not inside[:, 60:].any()
    assert inside[:, :40].all()


def test_a_mask_of_the_view_itself_comes_back_unchanged(case):
    probability, inside = person_probability(case, case.detection)
    np.testing.assert_allclose(probability, case.frame.mask[0], atol=1e-3)
    assert inside.all()


def arms_away() -> BodyParams:
    return dataclasses.replace(standing(), body_pose=torch.zeros(23, 3))


def test_the_colours_of_a_body_are_explained_by_its_own_parts():
    *own, away = Appearance().measure(case_of(group_of(arms_away()))).values
    assert max(own) < 0.7 * away  # what is left of its own lies where resampling mixes two colours


def test_a_part_over_another_colour_is_named():
    aside = dataclasses.replace(standing(), transl=standing().transl + torch.tensor([0.25, 0.0, 0.0]))
    evidence = Appearance().measure(case_of(group_of(aside)))
    part = evidence.parts[-1][0].removeprefix("the ")
    sentence = rf"Under its {part}, \d+ % of the pixels differ in colour from that part of the person\."
    assert re.fullmatch(sentence, evidence.sentences[-1])


def test_a_darker_photograph_gives_the_same_ranking():
    case = case_of(group_of(arms_away()))
    darker = dataclasses.replace(case.sample, image=(case.sample.image // 2).astype(np.uint8))
    bright, dark = (
        Appearance().measure(dataclasses.replace(case, sample=sample)).values
        for sample in (case.sample, darker)
    )
    assert max(range(4), key=bright.__getitem__) == max(range(4), key=dark.__getitem__) == 3


def test_a_photograph_of_one_colour_gives_no_value():
    case = case_of(group_of())
    plain = dataclasses.replace(case.sample, image=np.full_like(case.sample.image, 77))
    evidence = Appearance().measure(dataclasses.replace(case, sample=plain))
    assert evidence.values == (None, None, None)
    assert "of one colour" in evidence.sentences[0]


def test_a_body_outside_the_photograph_gives_no_value():
    away = dataclasses.replace(standing(), transl=torch.tensor([30.0, 0.0, 4.0]))
    evidence = Appearance().measure(case_of(BodyParams.stack([away, away])))
    assert evidence.values == (None, None)
