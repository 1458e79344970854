"""Finds the people in a photograph and samples hypotheses for them (`cli.photos.person_files` writes the files).

Boxes and cameras in inputs and outputs are in the pixels of the photograph's file. Internally a photograph of more than
24 megapixels is reduced (`hmr.images.photographs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.intrinsics import NO_INTRINSICS, Intrinsics
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.images.photographs import Photo, load_photo, sample_of
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.types import BodyParams, Box, Camera, Detector, Hypotheses, Sample

__all__ = ["Guide", "NobodyFound", "Person", "find_people", "given_people", "parse_box", "sample_people"]

Guide = Callable[[Features, Sample], Guidance]  # features of that one sample
MAX_BOX_SIDE = 3.0  # relative to the photograph's longer side; the crop of the whole box is held in memory
MIN_OVERLAP = 0.3  # of the boxes of one person in two files, intersection over union
MIN_CONFIDENCE_IN_BOX = 0.5  # half of the people in wild scenes reach 0.6, no background does


class NobodyFound(ValueError):
    """No person was detected with enough confidence; the message names the options that help."""


@dataclass(frozen=True)
class Person:
    """One person of a photograph with their group of hypotheses."""

    sample: Sample
    hypotheses: Hypotheses
    photo: Photo

    @property
    def box_in_file(self) -> Box:
        """The box in the file's pixels."""
        return self.photo.box_in_file(self.sample.box)

    @property
    def bbox(self) -> list[float]:
        """x0, y0, x1, y1 in the file's pixels, rounded to a tenth, for JSON."""
        box = self.box_in_file
        return [round(corner, 1) for corner in (box.x0, box.y0, box.x1, box.y1)]

    @property
    def hypotheses_in_file(self) -> Hypotheses:
        """The same bodies, with the camera in the file's pixels."""
        return Hypotheses(self.hypotheses.params, self.hypotheses.camera.resize(*self.photo.file_size))


def parse_box(text: str) -> Box:
    """ "x0,y0,x1,y1" in pixels. Raises ValueError for anything else."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--box takes four numbers x0,y0,x1,y1 in pixels, not {text!r}") from error
    return Box(x0, y0, x1, y1)


def find_people(
    photo: Photo,
    title: str,
    policy: DiffusionPolicy,
    detector: Detector,
    boxes: Sequence[Box],
    accept_any_box: bool = False,
    intrinsics: Intrinsics = NO_INTRINSICS,
) -> tuple[list[Sample], list[str]]:
    """The people in the given boxes, or without boxes those that the detector finds, and a sentence per rejected box.

    A box that is given, or found by another detector than the policy's own, is rejected if the confidence of the
    policy's encoder in it is below MIN_CONFIDENCE_IN_BOX; `accept_any_box` accepts all of them. `title` names the
    photograph in messages; `intrinsics` is what is known of its camera. Raises NobodyFound if no person is left, and
    ValueError for a box that is too large or outside the image.
    """
    _check_boxes(title, photo, boxes)
    camera = photo.camera_in_image(intrinsics.camera(photo))
    if not boxes:
        found = [sample_of(photo.image, box, camera) for box in detector.find(photo.image)]
        if not found:
            raise NobodyFound(_nobody_found(title, detector))
        if detector.name == EmbeddedDetector.name:
            return found, []
    else:
        found = [sample_of(photo.image, photo.box_in_image(box), camera) for box in boxes]
    if accept_any_box:
        return found, []
    people, rejections, encoder = [], [], EmbeddedDetector(policy)
    for sample in found:
        confidence = encoder.confidence(sample)
        if confidence >= MIN_CONFIDENCE_IN_BOX:
            people.append(sample)
        else:
            rejections.append(_rejection(title, photo.box_in_file(sample.box), confidence))
    if not people:
        raise NobodyFound("; ".join(rejections))
    return people, rejections


def _nobody_found(title: str, detector: Detector) -> str:
    use_box = "give the person's box with --box x0,y0,x1,y1 (pixels)"
    if detector.name == EmbeddedDetector.name:
        return (
            f"{title}: the embedded detector (trained on rendered people) found nobody with sufficient confidence; "
            f"{use_box} or use a detector trained on photographs with --detector transformers"
        )
    return f"{title}: the detector {detector.name} found nobody; {use_box}"


def _rejection(title: str, box: Box, confidence: float) -> str:
    return (
        f"{title}: the confidence of the policy's encoder in the box {_corners(box)} is {confidence:.2f}, below the "
        f"required {MIN_CONFIDENCE_IN_BOX}; it is trained on rendered people and often fails on crowds, motion blur "
        "and heavy occlusion; --anyway accepts the box"
    )


def _check_boxes(title: str, photo: Photo, boxes: Sequence[Box]) -> None:
    width, height = photo.file_size
    for box in boxes:
        if not box.side <= MAX_BOX_SIDE * max(width, height):
            raise ValueError(
                f"{title}: the longer side of the box {_corners(box)} is {box.side:g} pixels; in a {width} x {height} "
                f"image at most {MAX_BOX_SIDE * max(width, height):g} are allowed"
            )
        if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
            raise ValueError(f"{title}: the box {_corners(box)} lies outside the {width} x {height} image")


def _corners(box: Box) -> str:
    return ",".join(f"{corner:g}" for corner in (box.x0, box.y0, box.x1, box.y1))


def sample_people(
    samples: Sequence[Sample],
    photo: Photo,
    policy: DiffusionPolicy,
    num_samples: int,
    seed: int,
    guide: Guide | None = None,
) -> list[Person]:
    """A group of `num_samples` hypotheses per person. The same photograph, box and seed give the same group."""
    people = []
    for sample in samples:
        generator = derive_generator(seed, "photo", sample.id)
        features = policy.encode([sample])
        guidance = guide(features, sample) if guide else None
        group = policy.sample(features, num_samples, generator, guidance=guidance)[0]
        people.append(Person(sample, Hypotheses(group.params, sample.camera), photo))
    return people


def given_people(path: Path, files: Sequence[Path], body: Body) -> list[Person]:
    """The people of hypotheses files (docs/reference/hypotheses-file.md) in a photograph. If a file has no boxes, they
    are computed from the projected joints. The bodies of several files form one group per person, in the camera of the
    first file.

    Raises ValueError for a box that is too large or outside the image, and if the files hold different people.
    """
    photo = load_photo(path)
    first, *others = (_people_of_file(photo, file, body, 2 if len(files) == 1 else 1) for file in files)
    for file, other in zip(files[1:], others, strict=True):
        if len(other) != len(first):
            raise ValueError(
                f"{files[0]} holds {len(first)} person(s) and {file} {len(other)}; joined files hold the same people"
            )
        first = _join(first, other, f"{files[0]} is not in {file}")
    return first


def _people_of_file(photo: Photo, file: Path, body: Body, min_group: int) -> list[Person]:
    people = []
    for box, in_file in read_hypotheses(file, photo.file_size, min_group):
        hypotheses = Hypotheses(in_file.params, photo.camera_in_image(in_file.camera))
        box_in_image = photo.box_in_image(box) if box else _box_of_joints(hypotheses, body)
        _check_boxes(str(file), photo, [photo.box_in_file(box_in_image)])
        sample = sample_of(photo.image, box_in_image, hypotheses.camera)
        people.append(Person(sample, hypotheses, photo))
    return people


def _join(people: Sequence[Person], others: Sequence[Person], not_found: str) -> list[Person]:
    """Each person with the hypotheses of the one of `others` whose box overlaps most and is not taken yet."""
    left, joined = list(others), []
    for number, person in enumerate(people):
        shares = [person.sample.box.overlap(other.sample.box) for other in left]
        if max(shares) < MIN_OVERLAP:
            raise ValueError(f"person {number} of {not_found}: no box there overlaps by {MIN_OVERLAP:.0%}")
        other = left.pop(shares.index(max(shares)))
        camera = person.hypotheses.camera
        params = BodyParams.cat([person.hypotheses.params, _seen_by(other.hypotheses, camera)])
        joined.append(dataclasses.replace(person, hypotheses=Hypotheses(params, camera)))
    return joined


def _seen_by(hypotheses: Hypotheses, camera: Camera) -> BodyParams:
    """The bodies moved so that their origin has the same place and scale in another camera's picture."""
    x, y, z = hypotheses.params.transl.unbind(-1)
    own = hypotheses.camera
    px_per_m = own.focal_px / z
    shift_x, shift_y = (own.cx_px - camera.cx_px) / px_per_m, (own.cy_px - camera.cy_px) / px_per_m
    transl = torch.stack([x + shift_x, y + shift_y, camera.focal_px / px_per_m], dim=-1)
    return dataclasses.replace(hypotheses.params, transl=transl)


def _box_of_joints(hypotheses: Hypotheses, body: Body) -> Box:
    points = hypotheses.camera.project(body.joints(hypotheses.params)).flatten(0, 1)
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    return Box(float(low[0]) - 1, float(low[1]) - 1, float(high[0]) + 1, float(high[1]) + 1)
