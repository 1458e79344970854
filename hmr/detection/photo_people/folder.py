"""The people in the photographs of a folder, as samples with what the detector reports of them.

Each photograph is searched once: what was found is stored under the digest of the photograph's content and of the
detector (`hmr.detection.photo_people.cache`), so that a killed search continues, and a second run searches only what is
new. People of whom the detector is uncertain are left out. Pixels stay in the photographs; the last one that was needed
is in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from common.progress import Stage
from common.storage.fingerprint import digest, file_digest
from hmr.detection.photo_people.cache import read_people, save_people
from hmr.detection.protocol import CERTAIN_CONFIDENCE, detect_people, detector_digest
from hmr.images.photographs import Photo, load_photo, photos_in
from hmr.types import Box, Camera, Detection, Detector, Sample

__all__ = ["PhotoPeople", "PhotoPerson", "find_in_folder"]


@dataclass(frozen=True)
class PhotoPerson:
    """A person that was found, without pixels."""

    id: str  # the photograph's path in the folder, and the person's number in it
    photo: Path
    found: Path  # the file of the people of this photograph
    number: int
    box: Box  # in pixels of the loaded photograph


class PhotoPeople(Sequence[Sample]):
    """Samples without a truth; the photograph of a sample is decoded on access."""

    def __init__(self, people: Sequence[PhotoPerson]) -> None:
        self.people = tuple(people)

    def __len__(self) -> int:
        return len(self.people)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> PhotoPeople: ...

    def __getitem__(self, index: int | slice) -> Sample | PhotoPeople:
        if isinstance(index, slice):
            return PhotoPeople(self.people[index])
        person = self.people[index]
        photo, detections = _opened(person.photo, person.found)
        height, width = photo.image.shape[:2]
        camera = Camera.estimate(width, height)
        return Sample(person.id, photo.image, person.box, camera, detections[person.number])

    @property
    def boxes(self) -> dict[str, Box]:
        """By the id of the sample."""
        return {person.id: person.box for person in self.people}

    def digest(self) -> str:
        """Of the photographs' content, the detector and the choice of people."""
        return digest(*(f"{person.id} {person.found.name}\n" for person in self.people))


def find_in_folder(
    folder: Path, detector: Detector, cache: Path, stage: Stage, report: Callable[[str], None], out: Path
) -> PhotoPeople:
    """The people in the photographs of a folder at any depth, except under `out`.

    cache: folder of what was found in each photograph. report: receives one line per photograph that cannot be read.
    Raises FileNotFoundError if there is no such folder, ValueError if it has no photograph, and if nobody is found.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder of photographs")
    photos = photos_in(folder, out)
    if not photos:
        raise ValueError(f"{folder}: the folder has no photograph")
    cache.mkdir(parents=True, exist_ok=True)
    tick, people, empty = stage(f"finding people in {len(photos)} photographs", len(photos)), [], 0
    for done, photo in enumerate(photos, start=1):
        if (found := _found(photo, detector, cache, report)) is not None:
            boxes = [box for box, _ in read_people(found)]
            empty += not boxes
            name = photo.relative_to(folder).as_posix()
            people += [
                PhotoPerson(f"{name}-{number}", photo, found, number, box) for number, box in enumerate(boxes)
            ]
        tick(done)
    if not people:
        raise ValueError(
            f"{folder}: the detector {detector.name} found nobody in {len(photos)} photograph(s)"
        )
    if empty:
        report(f"{folder}: the detector {detector.name} found nobody in {empty} of {len(photos)} photographs")
    return PhotoPeople(people)


def _found(photo: Path, detector: Detector, cache: Path, report: Callable[[str], None]) -> Path | None:
    """The file of the people of a photograph; None if it cannot be read, which is reported."""
    try:
        content = file_digest(photo, 64)
        path = cache / f"{digest(content, detector.name, detector_digest(detector) or '')}.safetensors"
        if path.exists():
            return path
        image = load_photo(photo).image
    except (ValueError, OSError) as error:
        report(f"left out: {error}")
        return None
    camera = Camera.estimate(image.shape[1], image.shape[0])
    people = detect_people(detector, image, camera)
    save_people(
        path, [(sample.box, seen) for sample, seen in people if seen.confidence >= CERTAIN_CONFIDENCE]
    )
    return path


@functools.lru_cache(maxsize=1)
def _opened(photo: Path, found: Path) -> tuple[Photo, list[Detection]]:
    return load_photo(photo), [detection for _, detection in read_people(found)]
