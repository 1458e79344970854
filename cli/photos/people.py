"""Photographs: find the people, and pose them. What is written of them is `cli.photos.person_files`'s.

Boxes and cameras that people give or get are in the pixels of the photograph's file; only a photograph of more than
24 megapixels is worked on in fewer (`hmr.images.photographs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.photos.hypotheses_file import read_hypotheses
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.images.photographs import Photo, load_photo, sample_of
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.types import Box, Detector, Hypotheses, Sample

__all__ = ["Guide", "NobodyFound", "Person", "find_people", "given_people", "parse_box", "sample_people"]

Guide = Callable[[Features, Sample], Guidance]  # features of that one sample
MAX_BOX_SIDE = (
    3.0  # longer sides of the photograph; all of a box is held in memory, and people hardly reach farther
)
MIN_CONFIDENCE_IN_BOX = 0.5  # half of the wild scenes' people are seen better than 0.6, no background is


class NobodyFound(ValueError):
    """The detector saw no person surely enough; the message says what to do."""


@dataclass(frozen=True)
class Person:
    """One person of a photograph and the group of hypotheses about them."""

    sample: Sample
    hypotheses: Hypotheses
    photo: Photo

    @property
    def box_in_file(self) -> Box:
        return self.photo.box_in_file(self.sample.box)

    @property
    def hypotheses_in_file(self) -> Hypotheses:
        """The same bodies; the camera in the file's pixels."""
        return Hypotheses(self.hypotheses.params, self.hypotheses.camera.resize(*self.photo.file_size))


def parse_box(text: str) -> Box:
    """ "x0,y0,x1,y1" in pixels. Raises ValueError for anything else."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"a box is four numbers x0,y0,x1,y1 in pixels, not {text!r}") from error
    return Box(x0, y0, x1, y1)


def find_people(
    photo: Photo,
    title: str,
    policy: DiffusionPolicy,
    detector: Detector,
    boxes: Sequence[Box],
    anyway: bool = False,
) -> tuple[list[Sample], list[str]]:
    """The people in the given boxes, or those that the detector finds; and a sentence for each box refused.

    A box, given or found by a detector other than the policy's own, is refused where the policy's encoder, trained on
    rendered people, cannot read the crop, unless `anyway`. Raises NobodyFound where nobody is left, ValueError for a
    box outside or far too large. `title` names the photograph in sentences.
    """
    _check_boxes(title, photo, boxes)
    if not boxes:
        found = [sample_of(photo.image, box) for box in detector.find(photo.image)]
        if not found:
            raise NobodyFound(_nobody(title, detector))
        if detector.name == EmbeddedDetector.name:
            return found, []
    else:
        found = [sample_of(photo.image, photo.box_here(box)) for box in boxes]
    if anyway:
        return found, []
    people, refusals, encoder = [], [], EmbeddedDetector(policy)
    for sample in found:
        confidence = encoder.confidence(sample)
        if confidence >= MIN_CONFIDENCE_IN_BOX:
            people.append(sample)
        else:
            refusals.append(_refusal(title, photo.box_in_file(sample.box), confidence))
    if not people:
        raise NobodyFound("; ".join(refusals))
    return people, refusals


def _nobody(title: str, detector: Detector) -> str:
    say_where = "say where the person is with --box x0,y0,x1,y1 (pixels)"
    if detector.name == EmbeddedDetector.name:
        return (
            f"{title}: the embedded detector, trained on rendered people, sees nobody here surely enough; "
            f"{say_where} or name a detector trained on photographs with --detector transformers"
        )
    return f"{title}: the detector {detector.name} sees nobody here; {say_where}"


def _refusal(title: str, box: Box, confidence: float) -> str:
    return (
        f"{title}: the embedded encoder, trained on rendered people, cannot read a person in {_corners(box)} "
        f"(confidence {confidence:.2f}, needs {MIN_CONFIDENCE_IN_BOX}); crowds, motion blur and heavy occlusion are "
        "beyond it; --anyway shows its guess"
    )


def _check_boxes(title: str, photo: Photo, boxes: Sequence[Box]) -> None:
    width, height = photo.file_size
    for box in boxes:
        if not box.side <= MAX_BOX_SIDE * max(width, height):
            raise ValueError(
                f"{title}: the box {_corners(box)} is {box.side:g} pixels long; one in a {width} x {height} image may "
                f"have {MAX_BOX_SIDE * max(width, height):g}"
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
    """A group of hypotheses each; the same photograph, box and seed give the same group."""
    people = []
    for sample in samples:
        generator = derive_generator(seed, "photo", sample.id)
        features = policy.encode([sample])
        guidance = guide(features, sample) if guide else None
        group = policy.sample(features, num_samples, generator, guidance=guidance)[0]
        people.append(Person(sample, Hypotheses(group.params, sample.camera), photo))
    return people


def given_people(path: Path, file: Path, body: Body) -> list[Person]:
    """The people of a hypotheses file (docs/guides/hypotheses-npz.md) over a photograph; missing boxes are drawn about.

    Raises ValueError for a box, given or drawn, that lies outside or is far too large.
    """
    photo = load_photo(path)
    height, width = photo.image.shape[:2]
    people = []
    for box, in_file in read_hypotheses(file, photo.file_size):
        hypotheses = Hypotheses(in_file.params, in_file.camera.resize(width, height))
        about = photo.box_here(box) if box else _box_about(hypotheses, body)
        _check_boxes(str(file), photo, [photo.box_in_file(about)])
        sample = sample_of(photo.image, about)
        people.append(Person(Sample(sample.id, photo.image, about, hypotheses.camera), hypotheses, photo))
    return people


def _box_about(hypotheses: Hypotheses, body: Body) -> Box:
    points = hypotheses.camera.project(body.joints(hypotheses.params)).flatten(0, 1)
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    return Box(float(low[0]) - 1, float(low[1]) - 1, float(high[0]) + 1, float(high[1]) + 1)
