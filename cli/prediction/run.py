"""What photographs and videos share in one run of `meshcritic predict`: models, settings, finished items, people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.photos.intrinsics import NO_INTRINSICS, Intrinsics, describe_camera
from cli.photos.people import DetectedPerson, NobodyFound, Person, find_people, sample_people
from cli.photos.person_files import DEFAULT_FORMATS
from cli.prediction.sources import Source
from common.failures import concerns_every_file, sentence_of
from common.storage.fingerprint import digest
from common.storage.jsonl import Manifest, Record
from hmr.body.model import Body
from hmr.detection.protocol import detector_digest
from hmr.images.photographs import Photo
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import Box, Camera, Detection, Detector, Renderer

__all__ = ["ITEM_FAILURES", "Models", "Outcome", "PredictSettings", "PredictionRun", "reason_of"]

ITEM_FAILURES = (ValueError, OSError, MemoryError)  # of one item, which is reported; the others are processed


@dataclass(frozen=True)
class PredictSettings:
    """Everything that the output depends on, besides the models and the input file."""

    samples: int = 8  # hypotheses per person
    seed: int = 0
    boxes: tuple[
        Box, ...
    ] = ()  # in the file's pixels, used for every picture; empty: the detector finds people
    accept_any_box: bool = False  # accept boxes in which the detector's confidence is low
    formats: tuple[str, ...] = DEFAULT_FORMATS
    guide: bool = False  # guide sampling with the detections (hmr.policy.guidance)
    every: int = 1  # process every n-th frame of a video
    intrinsics: Intrinsics = NO_INTRINSICS  # what is known of the camera of every picture
    skeleton: bool = False  # draw what the detector reported over the bodies
    smooth_s: float = 0.0  # width of the smoothing of motions (`Motion.smoothed`); 0: none


@dataclass(frozen=True)
class Models:
    policy: DiffusionPolicy
    body: Body
    renderer: Renderer

    def guide(self, features: Features, detections: Sequence[Detection]) -> DetectionGuidance:
        return DetectionGuidance(self.policy, self.body, features, detections)

    def digest(self) -> str:
        arrays = (self.body.model.v_template, self.body.model.shapedirs)
        detector = self.policy.detector
        read_by = (detector.name, detector_digest(detector) or "")
        return digest(self.policy.digest(), *read_by, *(array.numpy().tobytes() for array in arrays))


@dataclass(frozen=True)
class Outcome:
    """The result for a picture, or for a whole video: its record, or the reason why it has none."""

    source: Source
    frame: int | None  # index of a video frame; None for a photograph and for a whole video
    record: Record | None
    reason: str = ""
    earlier: bool = False  # the record was written by an earlier run

    @property
    def title(self) -> str:
        return self.source.title(self.frame)

    @property
    def ends_video(self) -> bool:
        return self.source.is_video and self.frame is None


class PredictionRun:
    def __init__(self, models: Models, settings: PredictSettings, out: Path, manifest: Manifest) -> None:
        self.models, self.settings, self.out, self.manifest = models, settings, out, manifest
        self._inputs = f"{models.digest()} {dataclasses.astuple(settings)}"

    def fingerprint(self, source: Source, *versions: str) -> str:
        """Of everything that the item's files depend on; `versions` tells its records from those of earlier versions.
        A missing input file is reported by its reader."""
        state = source.path.stat() if source.path.exists() else None
        return digest(repr((self._inputs, state and (state.st_size, state.st_mtime_ns), *versions)))

    def finished(self, name: str, fingerprint: str) -> Record | None:
        """The record of an earlier run, if all its files are there."""
        record = self.manifest.find(name, fingerprint)
        if record is None:
            return None
        return record if all(file.exists() for file in _files_of(record)) else None

    def finish(self, record: Record) -> None:
        """Record an item whose files are written, and delete those of an earlier run that are not its own any more, as
        of people who were found then."""
        earlier = self.manifest.last(record["name"])
        if earlier is not None:
            own, folder = {file.resolve() for file in _files_of(record)}, self.out.resolve()
            for file in _files_of(earlier):
                if file.resolve() not in own and file.resolve().is_relative_to(folder):
                    file.unlink(missing_ok=True)
        self.manifest.add(record)

    def find(self, photo: Photo, title: str, detector: Detector) -> tuple[list[DetectedPerson], list[str]]:
        """The people of a picture, and messages about rejected boxes and uncertain people."""
        settings = self.settings
        try:
            return find_people(
                photo, title, detector, settings.boxes, settings.accept_any_box, settings.intrinsics
            )
        except NobodyFound as error:
            return [], [str(error)]

    def sample(self, people: Sequence[DetectedPerson]) -> list[Person]:
        models, settings = self.models, self.settings
        guide = models.guide if settings.guide else None
        return sample_people(people, models.policy, settings.samples, settings.seed, guide)

    def camera(self, photo: Photo) -> Camera:
        """In the pixels of the file."""
        return self.settings.intrinsics.camera(photo)

    def describe_camera(self, photo: Photo) -> Record:
        return describe_camera(self.camera(photo), is_estimated=self.settings.intrinsics.focal_px is None)

    def describe_person(self, person: Person, files: Sequence[Path]) -> Record:
        record: Record = {"bbox": person.bbox, "files": [str(path) for path in files]}
        if person.detection is not None:
            record |= {
                "confidence": round(person.detection.confidence, 3),
                "detector": self.models.policy.detector.name,
            }
        return record


def reason_of(error: Exception) -> str:
    """Why an item failed. Raises the error again if the others would fail for the same reason."""
    if concerns_every_file(error):
        raise error
    return sentence_of(error)


def _files_of(record: Record) -> list[Path]:
    entries = (*record["people"], *record.get("motions", ()))
    files = [file for entry in entries for file in entry["files"]]
    files += [record["overlay"]] if "overlay" in record else []
    return [Path(file) for file in files]
