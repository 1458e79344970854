"""Which readings are people, on readings made by hand: a stick figure of 170 pixels in a crop of 200."""

from dataclasses import replace

import pytest
import torch

from hmr.detection.blazepose import people
from hmr.detection.blazepose.landmarks import LANDMARK_NAMES, Landmarks
from hmr.detection.blazepose.regions import Region

PIXELS_PER_METRE = 100.0
# x to the picture's right, y down, in metres about the middle of the hips; the person's left is at +x
HALF = {
    "eye_inner": (0.02, -0.68), "eye": (0.03, -0.68), "eye_outer": (0.04, -0.68), "ear": (0.07, -0.66),
    "shoulder": (0.18, -0.48), "elbow": (0.22, -0.2), "wrist": (0.24, 0.05), "pinky_knuckle": (0.25, 0.12),
    "index_knuckle": (0.24, 0.13), "thumb_knuckle": (0.22, 0.1), "hip": (0.1, 0.0), "knee": (0.11, 0.42),
    "ankle": (0.11, 0.82), "heel": (0.1, 0.86), "big_toe": (0.14, 0.88),
}  # fmt: skip


def world() -> torch.Tensor:
    rows = []
    for name in LANDMARK_NAMES:
        if name == "nose":
            rows.append((0.0, -0.65, 0.0))
        elif name.startswith("mouth"):
            rows.append((0.02 if name.endswith("left") else -0.02, -0.6, 0.0))
        else:
            side, _, part = name.partition("_")
            x, y = HALF[part]
            rows.append((x if side == "left" else -x, y, 0.0))
    return torch.tensor(rows)


def reading(x: float = 100.0, y: float = 100.0, **changes: object) -> Landmarks:
    """A person whose hips are at (x, y), with a mask of 80 x 200 pixels about them."""
    region = Region(x, y, 200.0)
    mask = torch.zeros(64, 64)
    mask[:, 19:45] = 1.0
    made = Landmarks(
        region=region,
        next_region=region,
        points_px=world()[:, :2] * PIXELS_PER_METRE + torch.tensor([x, y]),
        peak=torch.full((33,), 0.9),
        visibility=torch.ones(33),
        presence=torch.ones(33),
        world_m=world(),
        mask=mask,
        score=1.0,
    )
    return replace(made, **changes)


def row(name: str) -> int:
    return LANDMARK_NAMES.index(name)


def test_a_score_without_clear_peaks_is_no_person():
    assert people.confidence(reading()) == pytest.approx(1.0)
    assert people.confidence(reading(peak=torch.full((33,), 0.5))) == pytest.approx(0.5)
    assert people.confidence(reading(peak=torch.full((33,), 0.3))) == 0.0


def test_a_person_seen_by_half_keeps_the_confidence_of_the_seen_half():
    """Legs with flat heatmaps do not count when they are not visible."""
    legs = [
        row(f"{side}_{part}") for side in ("left", "right") for part in ("knee", "ankle", "heel", "big_toe")
    ]
    peak, visibility = torch.full((33,), 0.7), torch.ones(33)
    peak[legs] = 0.0
    visible = people.confidence(reading(peak=peak))
    visibility[legs] = 0.01
    assert visible < people.confidence(reading(peak=peak, visibility=visibility))


def test_sigma_grows_with_flat_heatmaps_and_hidden_landmarks():
    """200 px * .006 * exp(2.6 * .1) = 1.56 px for a peak of .9 in sight."""
    assert people.sigma_px(reading())[0] == pytest.approx(1.56, abs=0.01)
    assert (people.sigma_px(reading(peak=torch.full((33,), 0.4))) > 4).all()
    hidden = people.sigma_px(reading(visibility=torch.zeros(33)))
    assert hidden[0] == pytest.approx(1.56 * 1.65, abs=0.02)


def test_a_limb_off_the_mask_is_not_attached():
    """The left hand at the place of a neighbour, 60 pixels beyond the mask but not too far for an arm."""
    points = reading().points_px.clone()
    hand = [row(f"left_{part}") for part in ("wrist", "pinky_knuckle", "index_knuckle", "thumb_knuckle")]
    points[hand] = points[row("left_elbow")] + torch.tensor([45.0, 0.0])
    values = people.plausible(reading(points_px=points))
    assert (values[hand] == 0).all()
    assert values[row("right_wrist")] == 1


def test_a_limb_that_is_too_long_is_not_attached():
    """A left shin of 1.2 m within the mask; longer than 1.5 * .55 m."""
    points = reading(y=50.0).points_px.clone()
    foot = [row(f"left_{part}") for part in ("ankle", "heel", "big_toe")]
    points[foot] = points[row("left_knee")] + torch.tensor([0.0, 120.0])
    values = people.plausible(reading(y=50.0, points_px=points, mask=torch.ones(64, 64)))
    assert (values[foot] == 0).all()
    assert values[row("left_knee")] == 1
    assert values[row("right_ankle")] == 1


def test_points_outside_the_photograph_are_not_seen():
    seen = people.seen(reading(), 200, 150)
    assert seen[row("left_knee")] > 0.9  # y = 142
    assert seen[row("left_ankle")] == 0  # y = 182


def test_the_box_is_inside_the_photograph():
    box = people.person_box(reading(x=10.0), 200, 150)
    assert box is not None
    assert (box.x0, box.y1) == (0.0, 150.0)
    assert people.person_box(reading(x=-500.0), 200, 150) is None


def test_two_readings_of_a_person_are_one():
    first, again = reading(), reading(x=108.0, y=95.0)
    kept = people.remove_duplicates([first, again])
    assert len(kept) == 1
    assert kept[0] is first


def test_a_reading_that_shares_the_mask_is_the_same_person():
    """The torso is read too low, at the legs, but most of the smaller mask is the same."""
    low = reading(y=140.0)
    assert len(people.remove_duplicates([reading(), low])) == 1


def test_neighbours_stay_apart():
    assert len(people.remove_duplicates([reading(), reading(x=170.0)])) == 2


def test_a_crop_on_a_person_who_has_been_read_is_needless():
    assert people.is_on(Region(105.0, 90.0, 180.0), reading())
    assert not people.is_on(Region(180.0, 100.0, 180.0), reading())  # beside
    assert not people.is_on(Region(105.0, 90.0, 60.0), reading())  # a child before the person
