"""Photographs, folders and videos, one picture at a time: memory does not grow with their number.

    OUT/NAME-0-overlay.png ...     of each person (cli.photos.person_files); a folder's own folders are kept
    OUT/CLIP-000120-0-overlay.png  of a video's frame
    OUT/CLIP-0.bvh                 of a person through a video, where `bvh` is among the formats
    OUT/manifest.jsonl             what is finished: a second run goes on, and computes nothing twice

A finished item is computed again where its file, the policy or an option that shapes the answer has changed, or where
one of its files is gone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cli.photos.people import NobodyFound, Person, find_people, sample_people
from cli.photos.person_files import DEFAULT_FORMATS, save_person
from cli.photos.sources import Source
from cli.photos.tracks import Tracks
from common.jsonl import Manifest, Record
from common.progress import Stage
from hmr.body.export import write_bvh
from hmr.body.model import Body
from hmr.images.photographs import Photo, load_photo, photo_of
from hmr.images.videos import Video, open_video
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Box, Detector, Renderer, Sample

__all__ = ["Models", "Outcome", "PredictSettings", "Predictor"]


@dataclass(frozen=True)
class PredictSettings:
    """What shapes the answer, beside the models."""

    samples: int = 8
    seed: int = 0
    boxes: tuple[Box, ...] = ()  # in the file's pixels, in every picture; none: the detector looks
    anyway: bool = False
    formats: tuple[str, ...] = DEFAULT_FORMATS
    guide: bool = False  # by what the detector sees of each person (hmr.policy.guidance)
    every: int = 1  # frames of a video from one look to the next


@dataclass(frozen=True)
class Models:
    policy: DiffusionPolicy
    body: Body
    renderer: Renderer
    detector: Detector

    def guide(self, features: Features, sample: Sample) -> DetectionGuidance:
        return DetectionGuidance(self.policy, self.body, features, [self.detector.detect(sample)])

    def digest(self) -> str:
        state = hashlib.sha256(self.policy.digest().encode() + self.detector.name.encode())
        state.update(self.body.model.v_template.numpy().tobytes())
        state.update(self.body.model.shapedirs.numpy().tobytes())
        return state.hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What became of a picture, or of a video as a whole: a record, or the reason why it could not be read."""

    source: Source
    frame: int | None  # of a video
    record: Record | None
    reason: str = ""
    earlier: bool = False  # the record is an earlier run's

    @property
    def title(self) -> str:
        return _title(self.source, self.frame)

    @property
    def ends_video(self) -> bool:
        return self.source.is_video and self.frame is None


class Predictor:
    """Finds, poses and writes the people of pictures, and notes in the manifest what is done."""

    def __init__(self, models: Models, settings: PredictSettings, out: Path, manifest: Manifest) -> None:
        self.models, self.settings, self.out, self.manifest = models, settings, out, manifest
        self._shaped_by = f"{models.digest()} {dataclasses.astuple(settings)}"

    def run(self, sources: Sequence[Source], stage: Stage) -> Iterator[Outcome]:
        """One outcome a photograph; one a frame and one a video; in their order."""
        stills = sum(not source.is_video for source in sources)
        tick, done = stage("photographs", stills) if stills > 1 else lambda _: None, 0
        for source in sources:
            if source.is_video:
                yield from self._video(source, stage)
            else:
                yield self._picture(source, None, lambda source=source: load_photo(source.path))
                done += 1
                tick(done)

    def _picture(self, source: Source, frame: int | None, read: Callable[[], Photo]) -> Outcome:
        stamp, name = self._stamp(source), _name(source, frame)
        if record := self._finished(name, stamp):
            return Outcome(source, frame, record, earlier=True)
        try:
            people, said = self._people(read(), _title(source, frame))
        except (ValueError, FileNotFoundError) as error:
            return Outcome(source, frame, None, str(error))
        record = {"name": name, "stamp": stamp, "said": said}
        record["people"] = [
            self._write(f"{name}-{number}", person, source.is_video) for number, person in enumerate(people)
        ]
        self.manifest.add(record)
        return Outcome(source, frame, record)

    def _people(self, photo: Photo, title: str) -> tuple[list[Person], list[str]]:
        models, settings = self.models, self.settings
        try:
            samples, said = find_people(
                photo, title, models.policy, models.detector, settings.boxes, settings.anyway
            )
        except NobodyFound as nobody:
            return [], [str(nobody)]
        guide = models.guide if settings.guide else None
        return sample_people(samples, photo, models.policy, settings.samples, settings.seed, guide), said

    def _write(self, name: str, person: Person, moving: bool) -> Record:
        """A motion is written when the whole video is known: until then the record keeps the pose."""
        stem, motion = self.out / name, moving and "bvh" in self.settings.formats
        stem.parent.mkdir(parents=True, exist_ok=True)
        formats = [kind for kind in self.settings.formats if not (moving and kind == "bvh")]
        files = save_person(stem, person, self.models.body, self.models.renderer, formats=formats)
        box = person.box_in_file
        record: Record = {
            "bbox": [round(corner, 1) for corner in (box.x0, box.y0, box.x1, box.y1)],
            "files": [str(path) for path in files],
        }
        return {**record, "pose": _to_row(person.hypotheses.params[0])} if motion else record

    def _finished(self, name: str, stamp: str) -> Record | None:
        record = self.manifest.find(name, stamp)
        if record is None:
            return None
        made = (*record["people"], *record.get("motions", ()))
        return record if all(Path(file).exists() for entry in made for file in entry["files"]) else None

    def _stamp(self, source: Source) -> str:
        """Of all that an item's files depend on; a file that is not there is a matter for its reader."""
        state = source.path.stat() if source.path.exists() else None
        key = (self._shaped_by, state and (state.st_size, state.st_mtime_ns))
        return hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    # -- videos ----------------------------------------------------------------------------------------------

    def _video(self, source: Source, stage: Stage) -> Iterator[Outcome]:
        stamp = self._stamp(source)
        if whole := self._finished(source.name, stamp):
            for index in range(0, whole["frames"], self.settings.every):
                if record := self._finished(_name(source, index), stamp):
                    yield Outcome(source, index, record, earlier=True)
            yield Outcome(source, None, whole, earlier=True)
            return
        try:
            video = open_video(source.path)
            count = yield from self._frames(source, video, stage)
        except (ValueError, FileNotFoundError) as error:
            yield Outcome(source, None, None, str(error))
            return
        whole = {"name": source.name, "stamp": stamp, "said": [], "people": []}
        whole |= {"frames": count, "motions": self._motions(source, video.fps, count)}
        self.manifest.add(whole)
        yield Outcome(source, None, whole)

    def _frames(self, source: Source, video: Video, stage: Stage) -> Generator[Outcome, None, int]:
        """Looks at every n-th frame; the number of frames there were, which a container only estimates."""
        every, count = self.settings.every, 0
        looks = -(-video.num_frames // every)
        tick = stage(source.path.name, looks)
        for frame in video.frames():
            count = frame.index + 1
            if frame.index % every == 0:
                yield self._picture(source, frame.index, lambda read=frame.read: photo_of(read()))
                tick(min(count // every, looks - 1))
        tick(looks)
        return count

    def _motions(self, source: Source, fps: float, num_frames: int) -> list[Record]:
        """The BVH files of a finished video, a person each."""
        if "bvh" not in self.settings.formats:
            return []
        stamp, every, tracks = self._stamp(source), self.settings.every, Tracks()
        for look, index in enumerate(range(0, num_frames, every)):
            people = (self.manifest.find(_name(source, index), stamp) or {"people": []})["people"]
            tracks.add(look, [(Box(*person["bbox"]), _from_row(person["pose"])) for person in people])
        motions = []
        for number, track in enumerate(tracks.all):
            path = self.out / f"{source.name}-{number}.bvh"
            write_bvh(path, BodyParams.stack(track.poses), self.models.body, fps / every)
            motions.append({"files": [str(path)], "first_frame": track.first_look * every})
        return motions


def _name(source: Source, frame: int | None) -> str:
    return source.name if frame is None else f"{source.name}-{frame:06d}"


def _title(source: Source, frame: int | None) -> str:
    return str(source.path) if frame is None else f"{source.path} frame {frame}"


def _to_row(params: BodyParams) -> list[float]:
    columns = (params.global_orient, params.body_pose.flatten(), params.betas, params.transl)
    return [round(value, 6) for value in torch.cat(columns).tolist()]


def _from_row(row: Sequence[float]) -> BodyParams:
    orient, pose, betas, transl = torch.tensor(row).split([3, 69, 10, 3])
    return BodyParams(orient, pose.reshape(23, 3), betas, transl)
