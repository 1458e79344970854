"""Who is posed and who is refused, and whose pixels boxes and cameras are in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.photos.hypotheses_file import write_hypotheses
from cli.photos.people import NobodyFound, find_people, given_people, parse_box, sample_people
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.images import photographs as photo_module
from hmr.images.photographs import photo_of
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Box, Camera, Detection, Hypotheses, Sample

BOX = Box(10.0, 8.0, 50.0, 60.0)
PHOTO = photo_of(np.random.default_rng(0).integers(0, 255, (72, 64, 3), dtype=np.uint8))


class Finder:
    """A detector of photographs, in its answers."""

    name = "finder"

    def __init__(self, *boxes: Box) -> None:
        self.boxes = list(boxes)

    def find(self, image: np.ndarray) -> list[Box]:
        return self.boxes

    def detect(self, sample: Sample) -> Detection:
        raise NotImplementedError


def test_a_box_is_four_numbers():
    assert parse_box("1,2.5,30,40") == Box(1.0, 2.5, 30.0, 40.0)
    with pytest.raises(ValueError, match="four numbers"):
        parse_box("1,2,3")


@pytest.mark.parametrize("box", ["-1e9,-1e9,1e9,1e9", "0,0,inf,50", "-200,0,20,20"])
def test_a_box_far_larger_than_the_photograph_is_refused(tiny_policy, box):
    """The photograph has 64 x 72 pixels: three times the longer side is 216."""
    with pytest.raises(
        ValueError, match=r"^a.png: the box .* pixels long; one in a 64 x 72 image may have 216$"
    ):
        find_people(PHOTO, "a.png", tiny_policy, Finder(), [parse_box(box)], anyway=True)
    find_people(PHOTO, "a.png", tiny_policy, Finder(), [parse_box("-190,0,20,20")], anyway=True)


def test_people_that_another_detector_finds_must_be_readable_too(tiny_policy: DiffusionPolicy):
    """Noise is nobody to the policy's encoder, whoever says so."""
    with pytest.raises(NobodyFound, match=r"10,8,50,60.*--anyway"):
        find_people(PHOTO, "a.png", tiny_policy, Finder(BOX), [])
    people, refusals = find_people(PHOTO, "a.png", tiny_policy, Finder(BOX), [], anyway=True)
    assert [sample.box for sample in people] == [BOX]
    assert refusals == []


def test_one_readable_person_is_kept_and_the_other_refused(tiny_policy, monkeypatch):
    monkeypatch.setattr(
        EmbeddedDetector, "confidence", lambda self, sample: 0.9 if sample.box == BOX else 0.1
    )
    other = Box(0.0, 0.0, 30.0, 30.0)
    people, (refusal,) = find_people(PHOTO, "a.png", tiny_policy, Finder(other, BOX), [])
    assert [sample.box for sample in people] == [BOX]
    assert "a.png" in refusal
    assert "0,0,30,30" in refusal


def test_a_detector_that_sees_nobody_is_named(tiny_policy):
    with pytest.raises(NobodyFound, match=r"detector finder sees nobody.*--box"):
        find_people(PHOTO, "a.png", tiny_policy, Finder(), [])


def test_given_boxes_ask_no_detector(tiny_policy):
    people, _ = find_people(PHOTO, "a.png", tiny_policy, Finder(), [BOX], anyway=True)
    assert [sample.box for sample in people] == [BOX]


def test_the_same_seed_gives_the_same_group(tiny_policy):
    samples, _ = find_people(PHOTO, "a.png", tiny_policy, Finder(), [BOX], anyway=True)
    first, again, other = (
        sample_people(samples, PHOTO, tiny_policy, 3, seed)[0].hypotheses.params.body_pose
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_hypotheses_given_for_an_enormous_photograph_are_in_its_own_pixels(
    body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file of 128 x 144 is kept at 64 x 72: camera and box shrink with it, bodies do not, and go back unchanged."""
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
    (person,) = given_people(tmp_path / "a.png", tmp_path / "h.npz", body)
    assert person.hypotheses.camera == Camera(100.0, 30.0, 35.0, 64, 72)
    assert person.sample.box == Box(10.0, 8.0, 50.0, 60.0)
    assert person.box_in_file == Box(20.0, 16.0, 100.0, 120.0)
    assert person.hypotheses_in_file.camera == in_file.camera


@pytest.mark.parametrize(
    ("box", "transl", "message"),
    [
        (Box(-1e9, 0.0, 1e9, 72.0), [0.0, 0.2, 4.0], "pixels long"),
        (Box(500.0, 500.0, 600.0, 600.0), [0.0, 0.2, 4.0], "outside"),
        (None, [50.0, 0.2, 4.0], "outside"),
        (None, [0.0, 0.2, -4.0], "pixels long"),
    ],
)
def test_hypotheses_that_the_photograph_does_not_show_are_refused(
    body: Body, tmp_path: Path, box: Box | None, transl: list[float], message: str
):
    Image.new("RGB", (64, 72)).save(tmp_path / "a.png")
    turned, zeros = torch.tensor([[torch.pi, 0, 0]]).repeat(2, 1), torch.zeros(2, 23, 3)
    params = BodyParams(turned, zeros, torch.zeros(2, 10), torch.tensor([transl]).repeat(2, 1))
    write_hypotheses(tmp_path / "h.npz", [(box, Hypotheses(params, Camera(100.0, 32.0, 36.0, 64, 72)))])
    with pytest.raises(ValueError, match=rf"h.npz: the box .*{message}"):
        given_people(tmp_path / "a.png", tmp_path / "h.npz", body)
