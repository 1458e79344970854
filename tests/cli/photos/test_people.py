"""Which people are accepted or rejected, and in which pixels boxes and cameras are given."""

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cli.photos import people as people_module
from cli.photos.hypotheses_file import write_hypotheses
from cli.photos.people import (
    NobodyFound,
    Person,
    describe_large_angles,
    describe_other_body,
    find_people,
    given_people,
    parse_box,
    sample_people,
)
from hmr.body.model import Body
from hmr.images import photographs as photo_module
from hmr.images.photographs import photo_of, sample_of
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Box, Camera, Detection, Hypotheses, Sample

BOX = Box(10.0, 8.0, 50.0, 60.0)
PHOTO = photo_of(np.random.default_rng(0).integers(0, 255, (72, 64, 3), dtype=np.uint8))


class FixedDetector:
    """A detector that always finds the same boxes, with a confidence for each."""

    name = "fixed"

    def __init__(self, *boxes: Box, confidences: Mapping[Box, float] | None = None) -> None:
        self.boxes, self.confidences = list(boxes), confidences or {}

    def find(self, image: np.ndarray) -> list[Box]:
        return self.boxes

    def detect(self, sample: Sample) -> Detection:
        confidence = self.confidences.get(sample.box, 1.0)
        x, y = sample.box.center
        return Detection.from_points(
            ["pelvis"], torch.tensor([[x, y]]), torch.ones(1), torch.ones(1), confidence=confidence
        )


class ReadingDetector(FixedDetector):
    """A detector that reads people while it searches."""

    def find_people(self, image: np.ndarray) -> list[SimpleNamespace]:
        read = super().detect
        return [SimpleNamespace(box=box, detection=read(sample_of(image, box))) for box in self.boxes]

    def detect(self, sample: Sample) -> Detection:
        raise AssertionError("a person who was read while searching is not read again")


def test_a_box_is_four_numbers():
    assert parse_box("1,2.5,30,40") == Box(1.0, 2.5, 30.0, 40.0)
    with pytest.raises(ValueError, match="four numbers"):
        parse_box("1,2,3")


@pytest.mark.parametrize("box", ["-1e9,-1e9,1e9,1e9", "0,0,inf,50", "-200,0,20,20"])
def test_a_box_far_larger_than_the_photograph_is_rejected(box):
    """The photograph has 64 x 72 pixels: three times the longer side is 216."""
    with pytest.raises(
        ValueError, match=r"^a.png: the longer side of the box .* in a 64 x 72 image at most 216 are allowed$"
    ):
        find_people(PHOTO, "a.png", FixedDetector(), [parse_box(box)], accept_any_box=True)
    find_people(PHOTO, "a.png", FixedDetector(), [parse_box("-190,0,20,20")], accept_any_box=True)


def test_a_box_without_a_person_is_rejected_unless_any_box_is_accepted():
    detector = FixedDetector(confidences={BOX: 0.1})
    with pytest.raises(
        NobodyFound, match=r"^a.png: the detector fixed sees no person.*10,8,50,60.*--accept-any-box"
    ):
        find_people(PHOTO, "a.png", detector, [BOX])
    people, messages = find_people(PHOTO, "a.png", detector, [BOX], accept_any_box=True)
    assert [(person.sample.box, person.detection.confidence) for person in people] == [(BOX, 0.1)]
    assert messages == []


def test_one_person_is_accepted_one_called_uncertain_and_one_rejected():
    doubtful, empty = Box(0.0, 0.0, 30.0, 30.0), Box(30.0, 30.0, 60.0, 60.0)
    detector = FixedDetector(confidences={BOX: 0.9, doubtful: 0.3, empty: 0.1})
    people, messages = find_people(PHOTO, "a.png", detector, [BOX, doubtful, empty])
    assert [person.sample.box for person in people] == [BOX, doubtful]
    uncertain, rejection = messages
    assert "the person in the box 0,0,30,30 is uncertain (confidence 0.30" in uncertain
    assert "sees no person in the box 30,30,60,60" in rejection


def test_a_detector_that_finds_nobody_is_named():
    with pytest.raises(NobodyFound, match=r"detector fixed found nobody.*--box"):
        find_people(PHOTO, "a.png", FixedDetector(), [])


def test_given_boxes_replace_the_detector():
    (person,), _ = find_people(PHOTO, "a.png", FixedDetector(Box(0.0, 0.0, 9.0, 9.0)), [BOX])
    assert person.sample.box == BOX


@pytest.mark.parametrize("kind", [FixedDetector, ReadingDetector])
def test_people_who_are_found_come_with_their_detections(kind):
    people, messages = find_people(PHOTO, "a.png", kind(BOX, confidences={BOX: 0.4}), [])
    assert [(person.sample.box, person.detection.confidence) for person in people] == [(BOX, 0.4)]
    assert messages == [
        "a.png: the person in the box 10,8,50,60 is uncertain (confidence 0.40 of the detector fixed)"
    ]


def test_another_body_than_the_policy_s_is_named(tiny_policy: DiffusionPolicy, body: Body):
    assert describe_other_body(tiny_policy, body) == ""
    tiny_policy = copy.deepcopy(tiny_policy)
    tiny_policy.feedback.points.joint_template[5:] += torch.tensor([0.024, 0.0, 0.0])
    assert describe_other_body(tiny_policy, body) == (
        "the body embedded is not the one that the policy was trained with: at rest their joints are 19 mm apart on "
        "average, and so are the predicted bodies"
    )


def test_the_same_seed_gives_the_same_group(tiny_policy: DiffusionPolicy):
    people, _ = find_people(PHOTO, "a.png", FixedDetector(BOX), [])
    first, again, other = (
        sample_people(people, tiny_policy, 3, seed)[0].hypotheses.params.body_pose for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("together", [1, 2, 600])
def test_a_group_does_not_depend_on_who_else_is_sampled(
    tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch, together: int
):
    monkeypatch.setattr(people_module, "MAX_BATCH", 3 * together)
    boxes = [BOX, Box(0.0, 0.0, 30.0, 40.0), Box(5.0, 5.0, 40.0, 60.0)]
    people, _ = find_people(PHOTO, "a.png", tiny_policy.detector, boxes, accept_any_box=True)
    alone = [sample_people([person], tiny_policy, 3, seed=1)[0] for person in people]
    for one, other in zip(sample_people(people, tiny_policy, 3, seed=1), alone, strict=True):
        torch.testing.assert_close(
            one.hypotheses.params.body_pose, other.hypotheses.params.body_pose, atol=1e-4, rtol=0
        )
        assert one.sample is other.sample


def test_hypotheses_for_a_reduced_photograph_are_in_the_pixels_of_the_file(
    body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file of 128 x 144 is reduced to 64 x 72. Camera and box are scaled both ways; bodies do not change."""
    Image.new("RGB", (128, 144)).save(tmp_path / "a.png")
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 64 * 72)
    params = BodyParams(
        torch.tensor([[torch.pi, 0, 0]]).repeat(2, 1),
        torch.zeros(2, 23, 3),
        torch.zeros(2, 10),
        torch.tensor([[0.0, 0.2, 4.0]]).repeat(2, 1),
    )
    in_file = Hypotheses(params, Camera(200.0, 60.0, 70.0, 128, 144))
    write_hypotheses(tmp_path / "h.npz", [(Box(20.0, 16.0, 100.0, 120.0), in_file)])
    (person,) = given_people(tmp_path / "a.png", [tmp_path / "h.npz"], body)
    assert person.hypotheses.camera == Camera(100.0, 30.0, 35.0, 64, 72)
    assert person.sample.box == Box(10.0, 8.0, 50.0, 60.0)
    assert person.box_in_file == Box(20.0, 16.0, 100.0, 120.0)
    assert person.hypotheses_in_file.camera == in_file.camera


@pytest.mark.parametrize(
    ("box", "transl", "message"),
    [
        (Box(-1e9, 0.0, 1e9, 72.0), [0.0, 0.2, 4.0], "at most"),
        (Box(10.0, 10.0, 10.4, 10.4), [0.0, 0.2, 4.0], "is 0.4 pixels; at least 8 are needed"),
        (None, [0.0, 0.2, 1000.0], "pixels; at least 8 are needed"),
        (Box(500.0, 500.0, 600.0, 600.0), [0.0, 0.2, 4.0], "outside"),
        (None, [50.0, 0.2, 4.0], "outside"),
        (None, [0.0, 0.2, -4.0], "z = -4 m, which is behind the camera"),
    ],
)
def test_hypotheses_outside_the_photograph_are_rejected(
    body: Body, tmp_path: Path, box: Box | None, transl: list[float], message: str
):
    Image.new("RGB", (64, 72)).save(tmp_path / "a.png")
    turned, zeros = torch.tensor([[torch.pi, 0, 0]]).repeat(2, 1), torch.zeros(2, 23, 3)
    params = BodyParams(turned, zeros, torch.zeros(2, 10), torch.tensor([transl]).repeat(2, 1))
    write_hypotheses(tmp_path / "h.npz", [(box, Hypotheses(params, Camera(100.0, 32.0, 36.0, 64, 72)))])
    with pytest.raises(ValueError, match=rf"h.npz: .*{message}"):
        given_people(tmp_path / "a.png", [tmp_path / "h.npz"], body)


def test_angles_in_degrees_are_named():
    orient, pose = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(2, 1), torch.zeros(2, 23, 3)
    params = BodyParams(orient, pose, torch.zeros(2, 10), torch.zeros(2, 3))
    camera = Camera.estimate(64, 72)

    def person(params: BodyParams) -> Person:
        return Person(Sample("a", PHOTO.image, BOX, camera), Hypotheses(params, camera), PHOTO)

    assert describe_large_angles([person(params)]) == ""
    pose[1, 4] = torch.tensor([0.0, 45.0, 0.0])
    assert "turn by up to 45.0 radians" in describe_large_angles([person(params)])
