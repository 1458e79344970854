"""Published keypoints as points of the body, and their deviations."""

import pytest
import torch

from hmr.detection.keypoints.sets import (
    COCO,
    OPENPOSE_25,
    OPENPOSE_COCO,
    WHOLE_BODY,
    KeypointSet,
    deviations_px,
)
from hmr.policy.condition import points_of
from hmr.types import JOINT_NAMES, POINT_NAMES, SURFACE_POINT_NAMES, Box, Detection

BOX = Box(10.0, 20.0, 50.0, 120.0)


def seen_by(found: Detection) -> set[str]:
    return {name for name, seen in zip(POINT_NAMES, found.observed.tolist(), strict=True) if seen}


def read(keypoints: KeypointSet, **confidences: float) -> Detection:
    """Keypoint i at (i, 2 i); those that are not named have confidence 1."""
    row = torch.arange(float(len(keypoints)))
    confidence = torch.tensor([confidences.get(name, 1.0) for name in keypoints.order])
    return keypoints.detection(torch.stack([row, 2 * row], dim=-1), confidence, BOX)


def at(found: Detection, name: str) -> list[float]:
    return found.points_px[POINT_NAMES.index(name)].tolist()


def test_coco_reports_twelve_joints_and_five_points_of_the_face():
    names = seen_by(read(COCO))
    assert len(names & set(JOINT_NAMES)) == 12
    assert names & set(SURFACE_POINT_NAMES) == {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}


@pytest.mark.parametrize(
    ("keypoints", "size", "rows"),
    [
        (COCO, 17, {"nose": 0, "right_eye": 2, "left_shoulder": 5, "right_wrist": 10, "left_hip": 11}),
        # mmpose's configs/_base_/datasets/coco_wholebody.py
        (WHOLE_BODY, 133, {"right_ankle": 16, "left_big_toe": 17, "left_heel": 19, "right_small_toe": 21,
                           "left_thumb_knuckle": 93, "left_index_knuckle": 96, "left_pinky_knuckle": 108,
                           "right_thumb_knuckle": 114, "right_index_knuckle": 117, "right_pinky_knuckle": 129}),
        # OpenPose's doc/02_output.md
        (OPENPOSE_25, 25, {"right_shoulder": 2, "left_wrist": 7, "right_hip": 9, "left_ankle": 14, "right_eye": 15,
                           "left_ear": 18, "left_big_toe": 19, "left_heel": 21, "right_heel": 24}),
        (OPENPOSE_COCO, 18, {"right_wrist": 4, "right_hip": 8, "left_ankle": 13, "left_eye": 15, "left_ear": 17}),
    ],
)  # fmt: skip
def test_a_point_is_at_its_keypoint(keypoints: KeypointSet, size: int, rows: dict[str, int]):
    found = read(keypoints)
    assert len(keypoints) == size
    assert {name: at(found, name) for name in rows} == {name: [row, 2 * row] for name, row in rows.items()}


def test_whole_bodies_add_feet_and_knuckles_and_openpose_feet():
    added = seen_by(read(WHOLE_BODY)) - seen_by(read(COCO))
    assert added == {name for name in SURFACE_POINT_NAMES if name.endswith(("toe", "heel", "knuckle"))}
    assert seen_by(read(OPENPOSE_25)) == seen_by(read(COCO)) | {n for n in added if not n.endswith("knuckle")}


def test_midpoints_are_not_reported():
    """OpenPose's neck is a name of ours too, but another point."""
    assert seen_by(read(OPENPOSE_COCO)) == seen_by(read(COCO))
    assert not seen_by(read(OPENPOSE_25)) & {"neck", "pelvis"}


def test_keypoints_without_confidence_are_not_observed():
    found = read(COCO, left_knee=0.0, nose=0.25)
    knee, nose = POINT_NAMES.index("left_knee"), POINT_NAMES.index("nose")
    assert found.sigma_px[knee] == torch.inf
    assert found.visibility[knee] == 0
    assert found.visibility[nose] == 0.25
    assert (points_of([found], [BOX.square()]).weight[0, knee]) == 0


def test_deviations_are_parts_of_the_root_of_the_persons_area():
    """A box of 40 x 100 has 4000 square pixels, of which .53 are the person: the root of half of that is 32.56."""
    sigma = deviations_px(["left_hip", "right_eye"], torch.ones(2), BOX)
    torch.testing.assert_close(sigma, torch.tensor([0.107, 0.025]) * 1060**0.5)
    hidden = deviations_px(["left_hip"], torch.tensor([0.0]), BOX)
    torch.testing.assert_close(hidden, 2.5 * sigma[:1])


def test_every_point_has_a_deviation():
    sigma = deviations_px(POINT_NAMES, torch.ones(len(POINT_NAMES)), BOX)
    assert ((sigma > 0.5) & (sigma < 4)).all()
