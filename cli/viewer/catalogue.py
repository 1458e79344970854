"""The photographs that the page can show: of a run, of a file of hypotheses, or one for which bodies are sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cli.photos.people import DetectedPerson, Person, given_people, sample_people
from cli.photos.run_files import Scores, find_photo, read_scores
from cli.viewer.contents import ShownPerson, ShownPhoto, Source
from hmr.body.model import Body
from hmr.detection.protocol import detect_all
from hmr.images.photographs import Photo
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Detector

__all__ = ["Entry", "find_entries", "sample_photo"]

FILE = "hypotheses"  # the label of bodies that were read from files


@dataclass(frozen=True)
class Entry:
    """A photograph that is opened when it is shown."""

    name: str
    load: Callable[[], ShownPhoto]


def find_entries(
    path: Path, photos: Path | None, body: Body, load_detector: Callable[[], Detector]
) -> list[Entry]:
    """The photographs of a run's folder, which `meshcritic predict` or `critique` has written, or of one npz file.

    photos: see `find_photo`. Raises FileNotFoundError for a folder without an npz file, and for a file whose photograph
    is not found.
    """
    files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(
            f"{path} has no .npz file of hypotheses, as `meshcritic critique` writes them"
        )
    by_photo: dict[Path, list[Path]] = {}
    for file in files:
        by_photo.setdefault(find_photo(file, photos), []).append(file)
    return [
        Entry(_name(photo, by_photo), lambda photo=photo, own=own: _read(photo, own, body, load_detector()))
        for photo, own in by_photo.items()
    ]


def _name(photo: Path, others: Mapping[Path, object]) -> str:
    """The file's name; its path if there are several of that name."""
    return photo.name if sum(other.name == photo.name for other in others) == 1 else str(photo)


def _read(photo: Path, files: Sequence[Path], body: Body, detector: Detector) -> ShownPhoto:
    """Every file holds other people. The observed points are those of the detector."""
    people = [one for file in files for one in _people_of(photo, file, body)]
    detections = detect_all(detector, [one.person.sample for one in people])
    detected = [
        replace(one, person=replace(one.person, detection=detection))
        for one, detection in zip(people, detections, strict=True)
    ]
    return ShownPhoto(people[0].person.photo, tuple(detected))


def _people_of(photo: Path, file: Path, body: Body) -> list[ShownPerson]:
    """Only a file of one person has scores beside it."""
    people = given_people(photo, [file], body)
    known = read_scores(file, len(people[0].hypotheses)) if len(people) == 1 else Scores()
    names = [file.stem] if len(people) == 1 else [f"{file.stem}.{number}" for number in range(len(people))]
    return [
        ShownPerson(name, one, (Source(FILE, (one.hypotheses.params,)),), known.scores, known.comments)
        for name, one in zip(names, people, strict=True)
    ]


def sample_photo(
    name: str,
    photo: Photo,
    people: Sequence[DetectedPerson],
    policies: Mapping[str, DiffusionPolicy],
    num_samples: int,
    seed: int,
) -> ShownPhoto:
    """Hypotheses of every policy, by label, from the same noise, with the estimates of all steps. `name`: of files."""
    shown = []
    for number, person in enumerate(people):
        sampled = [_sampled(person, policy, num_samples, seed) for policy in policies.values()]
        sources = tuple(Source(label, steps) for label, (_, steps) in zip(policies, sampled, strict=True))
        shown.append(ShownPerson(f"{name}-{number}", sampled[0][0], sources))
    return ShownPhoto(photo, tuple(shown))


def _sampled(
    detected: DetectedPerson, policy: DiffusionPolicy, num_samples: int, seed: int
) -> tuple[Person, tuple[BodyParams, ...]]:
    steps: list[BodyParams] = []
    (person,) = sample_people(
        [detected], policy, num_samples, seed, on_step=lambda groups: steps.append(groups[0].params)
    )
    return person, (*steps[:-1], person.hypotheses.params)
