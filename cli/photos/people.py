"""Finds the people in a photograph and samples hypotheses for them (`cli.photos.person_files` writes the files).

Boxes and cameras in inputs and outputs are in the pixels of the photograph's file. Internally a photograph of more than
24 megapixels is reduced (`hmr.images.photographs`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.intrinsics import NO_INTRINSICS, Intrinsics
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.keypoints.file_detector import KeypointFileDetector
from hmr.detection.protocol import CERTAIN_CONFIDENCE, MIN_CONFIDENCE, detect_all, detect_people
from hmr.images.photographs import Photo, check_box, describe_box, load_photo, sample_of
from hmr.policy.policy import SAME_BODY_MM, DiffusionPolicy, Features, Guidance, OnStep
from hmr.types import BodyParams, Box, Camera, Detection, Detector, Hypotheses, Sample

__all__ = [
    "DetectedPerson",
    "Guide",
    "NobodyFound",
    "Person",
    "describe_large_angles",
    "find_people",
    "given_people",
    "parse_box",
    "sample_people",
    "with_detections",
]

Guide = Callable[[Features, Sequence[Detection]], Guidance]  # of the people of one batch
MAX_BATCH = 512  # hypotheses that are sampled at once
MIN_OVERLAP = 0.3  # of the boxes of one person in two files, intersection over union


class NobodyFound(ValueError):
    """No person was detected with enough confidence; the message names the options that help."""


@dataclass(frozen=True)
class DetectedPerson:
    """One person of a photograph, as the detector reports them."""

    sample: Sample
    detection: Detection
    photo: Photo


@dataclass(frozen=True)
class Person:
    """One person of a photograph with their group of hypotheses, and what the detector reports; None if unknown."""

    sample: Sample
    hypotheses: Hypotheses
    photo: Photo
    detection: Detection | None = None

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


def with_detections(people: Sequence[Person], detector: Detector) -> list[Person]:
    """The same people; the detector reads those of whom nothing is known, such as those of a hypotheses file."""
    unknown = [person for person in people if person.detection is None]
    read = iter(detect_all(detector, [person.sample for person in unknown]))
    return [
        dataclasses.replace(person, detection=next(read)) if person.detection is None else person
        for person in people
    ]


def describe_other_body(policy: DiffusionPolicy, body: Body) -> str:
    """A sentence if the body is not the one that the policy was trained with; empty if it is."""
    distance_mm = policy.distance_mm(body)
    if distance_mm < SAME_BODY_MM:
        return ""
    return (
        f"the body {body.name} is not the one that the policy was trained with: at rest their joints are "
        f"{distance_mm:.0f} mm apart on average, and so are the predicted bodies"
    )


def describe_large_angles(people: Sequence[Person]) -> str:
    """A sentence if rotations turn by more than a whole turn, as degrees do that are taken for radians; empty if none
    does."""
    poses = (one.hypotheses.params for one in people)
    largest = max(
        float(torch.cat([pose.global_orient[:, None], pose.body_pose], dim=1).norm(dim=-1).max())
        for pose in poses
    )
    if largest <= 2 * math.pi + 1e-3:
        return ""
    return (
        f"rotations of the hypotheses turn by up to {largest:.1f} radians, more than a whole turn; global_orient and "
        "body_pose are axis-angle vectors in radians, not degrees"
    )


def find_people(
    photo: Photo,
    title: str,
    detector: Detector,
    boxes: Sequence[Box],
    accept_any_box: bool = False,
    intrinsics: Intrinsics = NO_INTRINSICS,
) -> tuple[list[DetectedPerson], list[str]]:
    """The people in the given boxes, or without boxes those that the detector finds, and a sentence per rejected box
    and per uncertain person.

    A given box is rejected if the detector's confidence in it is below MIN_CONFIDENCE; `accept_any_box` accepts
    all of them. `title` names the photograph in messages; `intrinsics` is what is known of its camera. Raises
    NobodyFound if no person is left, and ValueError for a box that is too large or outside the image.
    """
    for box in boxes:
        check_box(box, photo.file_size, title)
    camera = photo.camera_in_image(intrinsics.camera(photo))
    if not boxes:
        pairs = detect_people(detector, photo.image, camera)
        found = [DetectedPerson(sample, detection, photo) for sample, detection in pairs]
        if not found:
            raise NobodyFound(_nobody_found(title, detector))
        return found, _confidence_warnings(title, detector, found)
    samples = [sample_of(photo.image, photo.box_in_image(box), camera) for box in boxes]
    detections = detect_all(detector, samples)
    people = [DetectedPerson(*pair, photo) for pair in zip(samples, detections, strict=True)]
    accepted = people
    if not accept_any_box:
        accepted = [person for person in people if person.detection.confidence >= MIN_CONFIDENCE]
    messages = [] if accept_any_box else _confidence_warnings(title, detector, people)
    if not accepted:
        raise NobodyFound("; ".join(messages))
    return accepted, messages


def _nobody_found(title: str, detector: Detector) -> str:
    if isinstance(detector, KeypointFileDetector):
        return f"{title}: the keypoint file holds no person of sufficient confidence ({detector.name})"
    use_box = "give the person's box with --box x0,y0,x1,y1 (pixels)"
    if detector.name == EmbeddedDetector.name:
        return (
            f"{title}: the embedded detector (trained on rendered people) found nobody with sufficient confidence; "
            f"{use_box} or use a detector trained on photographs with --detector blazepose"
        )
    return f"{title}: the detector {detector.name} found nobody; {use_box}"


def _confidence_warnings(title: str, detector: Detector, people: Sequence[DetectedPerson]) -> list[str]:
    return [
        _confidence_warning(
            title, detector, person.photo.box_in_file(person.sample.box), person.detection.confidence
        )
        for person in people
        if person.detection.confidence < CERTAIN_CONFIDENCE
    ]


def _confidence_warning(title: str, detector: Detector, box: Box, confidence: float) -> str:
    if confidence >= MIN_CONFIDENCE:
        return (
            f"{title}: the person in the box {describe_box(box)} is uncertain (confidence {confidence:.2f} of the "
            f"detector {detector.name})"
        )
    return (
        f"{title}: the detector {detector.name} sees no person in the box {describe_box(box)} (confidence "
        f"{confidence:.2f}, below {MIN_CONFIDENCE}); --accept-any-box accepts the box"
    )


def sample_people(
    people: Sequence[DetectedPerson],
    policy: DiffusionPolicy,
    num_samples: int,
    seed: int,
    guide: Guide | None = None,
    on_step: OnStep | None = None,
) -> list[Person]:
    """A group of `num_samples` hypotheses per person, whose noise depends on the photograph, the box and the seed, but
    not on who else is sampled; rounding does.

    on_step: called with the estimates of a batch of people after every step of the solver, as by
        `DiffusionPolicy.sample`.
    """
    size = max(1, MAX_BATCH // num_samples)
    posed = []
    for start in range(0, len(people), size):
        batch = people[start : start + size]
        detections = [person.detection for person in batch]
        features = policy.encode([person.sample for person in batch], detections)
        generators = [derive_generator(seed, "photo", person.sample.id) for person in batch]
        guidance = guide(features, detections) if guide else None
        groups = policy.sample(features, num_samples, generators, guidance=guidance, on_step=on_step)
        posed += [_posed(person, group.params) for person, group in zip(batch, groups, strict=True)]
    return posed


def _posed(person: DetectedPerson, params: BodyParams) -> Person:
    hypotheses = Hypotheses(params, person.sample.camera)
    return Person(person.sample, hypotheses, person.photo, person.detection)


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
    for number, (box, in_file) in enumerate(read_hypotheses(file, photo.file_size, min_group)):
        _check_depths(in_file.params.transl[:, 2], f"{file}: person {number}")
        hypotheses = Hypotheses(in_file.params, photo.camera_in_image(in_file.camera))
        box_in_image = photo.box_in_image(box) if box else _box_of_joints(hypotheses, body)
        check_box(photo.box_in_file(box_in_image), photo.file_size, str(file))
        sample = sample_of(photo.image, box_in_image, hypotheses.camera)
        people.append(Person(sample, hypotheses, photo))
    return people


def _check_depths(depths_m: Float[Tensor, "group"], where: str) -> None:
    """Raises ValueError, which begins with `where`, for a body behind the camera, whose projection means nothing."""
    if (behind := (depths_m <= 0).nonzero()).numel():
        index = int(behind[0])
        raise ValueError(
            f"{where}: hypothesis {index} has transl z = {float(depths_m[index]):g} m, which is behind the camera; "
            "z must be above 0"
        )


def _join(people: Sequence[Person], others: Sequence[Person], not_found: str) -> list[Person]:
    """Each person with the hypotheses of the one of `others` whose box overlaps most and is not taken yet."""
    left, joined = list(others), []
    for number, person in enumerate(people):
        shares = [person.sample.box.iou(other.sample.box) for other in left]
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
