"""Predicts the people of photographs and videos, one picture at a time, so that memory does not grow with their number.

    OUT/NAME-0-overlay.png ...     per person (cli.photos.person_files); subfolders of an input folder are kept
    OUT/CLIP-000120-0-overlay.png  per person of a video frame
    OUT/CLIP-0.glb, CLIP-0.bvh     motion of a person through a video, if the format is among those to write
    OUT/manifest.jsonl             finished items; a second run continues after them

A finished item is computed again if its input file, the models or a setting have changed, or if one of its output files
is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cli.photos.intrinsics import NO_INTRINSICS, Intrinsics, describe_camera
from cli.photos.people import NobodyFound, Person, find_people, sample_people
from cli.photos.person_files import DEFAULT_FORMATS, save_people, save_person
from cli.photos.sources import Source
from cli.photos.tracks import Tracks
from common.failures import concerns_every_file, sentence_of
from common.progress import Stage
from common.storage.fingerprint import digest
from common.storage.jsonl import Manifest, Record
from hmr.body.export import write_animated_glb, write_bvh
from hmr.body.model import Body
from hmr.body.motion import Motion
from hmr.detection.protocol import detector_digest
from hmr.detection.video import FollowedPeople, PersonTracker
from hmr.images.photographs import Photo, load_photo, photo_of
from hmr.images.videos import Video, VideoFrame, open_video
from hmr.policy.guidance import DetectionGuidance
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Box, Detection, Detector, Renderer

__all__ = ["Models", "Outcome", "PredictSettings", "Predictor"]


_FAILURES = (ValueError, OSError, MemoryError)  # of one item, which is reported; the others are processed
MOTIONS: tuple[str, ...] = ("glb", "bvh")  # formats with one file per person of a video


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

    def guide(self, features: Features, detection: Detection) -> DetectionGuidance:
        return DetectionGuidance(self.policy, self.body, features, [detection])

    def digest(self) -> str:
        arrays = (self.body.model.v_template, self.body.model.shapedirs)
        detector = self.policy.detector
        read_by = (detector.name, detector_digest(detector) or "")
        return digest(self.policy.digest(), *read_by, *(array.numpy().tobytes() for array in arrays))


@dataclass(frozen=True)
class _Timing:
    """Of a whole video, known when all its frames have been decoded."""

    num_frames: int
    times_s: list[float]  # of the processed frames, and at last the end of the video


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
        return _title(self.source, self.frame)

    @property
    def ends_video(self) -> bool:
        return self.source.is_video and self.frame is None


class Predictor:
    """Finds the people of pictures, samples hypotheses, writes the files, and records finished items."""

    def __init__(self, models: Models, settings: PredictSettings, out: Path, manifest: Manifest) -> None:
        self.models, self.settings, self.out, self.manifest = models, settings, out, manifest
        self._inputs = f"{models.digest()} {dataclasses.astuple(settings)}"

    def run(self, sources: Sequence[Source], stage: Stage) -> Iterator[Outcome]:
        """One outcome per photograph; for a video one per processed frame and one for the whole. In the given order."""
        stills = sum(not source.is_video for source in sources)
        tick, done = stage("photographs", stills) if stills > 1 else lambda _: None, 0
        for source in sources:
            if source.is_video:
                yield from self._video(source, stage)
            else:
                detector = self.models.policy.detector
                yield self._picture(source, None, lambda source=source: load_photo(source.path), detector)
                done += 1
                tick(done)

    def _picture(
        self,
        source: Source,
        frame: int | None,
        read: Callable[[], Photo],
        detector: Detector,
        **more: float,
    ) -> Outcome:
        """more: further entries of the record."""
        fingerprint, name = self._fingerprint(source), _name(source, frame)
        if record := self._finished(name, fingerprint):
            return Outcome(source, frame, record, earlier=True)
        try:
            photo = read()
            people, messages = self._people(photo, _title(source, frame), detector)
            record = {"name": name, "stamp": fingerprint, "said": messages, **more}
            record |= {} if source.is_video else {"photo": str(source.path.resolve())}
            record |= {
                "camera": self._describe_camera(photo),
                **self._write_all(name, people, source.is_video),
            }
        except _FAILURES as error:
            return Outcome(source, frame, None, _reason(error))
        self.manifest.add(record)
        return Outcome(source, frame, record)

    def _people(self, photo: Photo, title: str, detector: Detector) -> tuple[list[Person], list[str]]:
        """The people with their hypotheses, and messages about rejected boxes."""
        models, settings = self.models, self.settings
        try:
            people, messages = find_people(
                photo, title, detector, settings.boxes, settings.accept_any_box, settings.intrinsics
            )
        except NobodyFound as error:
            return [], [str(error)]
        guide = models.guide if settings.guide else None
        return sample_people(people, photo, models.policy, settings.samples, settings.seed, guide), messages

    def _describe_camera(self, photo: Photo) -> Record:
        intrinsics = self.settings.intrinsics
        return describe_camera(intrinsics.camera(photo), is_estimated=intrinsics.focal_px is None)

    def _write_all(self, name: str, people: Sequence[Person], in_video: bool) -> Record:
        written = [self._write(f"{name}-{number}", person, in_video) for number, person in enumerate(people)]
        overview = len(people) > 1 and not in_video
        return {
            "people": written,
            **({"overlay": str(self._write_overview(name, people))} if overview else {}),
        }

    def _write(self, name: str, person: Person, in_video: bool) -> Record:
        """Motions are written at the end of the video; until then the record of each frame holds the pose."""
        stem, motion = self.out / name, in_video and self._motion_formats
        stem.parent.mkdir(parents=True, exist_ok=True)
        formats = [kind for kind in self.settings.formats if not (in_video and kind == "bvh")]
        files = save_person(
            stem, person, self.models.body, self.models.renderer, formats=formats,
            with_skeleton=self.settings.skeleton,
        )  # fmt: skip
        record: Record = {"bbox": person.bbox, "files": [str(path) for path in files]}
        if person.detection is not None:
            record |= {
                "confidence": round(person.detection.confidence, 3),
                "detector": self.models.policy.detector.name,
            }
        return {**record, "pose": _to_row(person.hypotheses.params[0])} if motion else record

    def _write_overview(self, name: str, people: Sequence[Person]) -> Path:
        stem = self.out / name
        path = stem.with_name(f"{stem.name}-people.png")
        save_people(path, people, self.models.body, self.models.renderer)
        return path

    @property
    def _motion_formats(self) -> list[str]:
        return [kind for kind in MOTIONS if kind in self.settings.formats]

    def _finished(self, name: str, fingerprint: str) -> Record | None:
        record = self.manifest.find(name, fingerprint)
        if record is None:
            return None
        entries = (*record["people"], *record.get("motions", ()))
        files = [file for entry in entries for file in entry["files"]]
        files += [record["overlay"]] if "overlay" in record else []
        return record if all(Path(file).exists() for file in files) else None

    def _fingerprint(self, source: Source) -> str:
        """Of everything that the item's files depend on. A missing input file is reported by its reader."""
        state = source.path.stat() if source.path.exists() else None
        versions = ("with times", "searched for nearby") if source.is_video else ()  # earlier records differ
        return digest(repr((self._inputs, state and (state.st_size, state.st_mtime_ns), *versions)))

    # -- videos ----------------------------------------------------------------------------------------------

    def _video(self, source: Source, stage: Stage) -> Iterator[Outcome]:
        fingerprint = self._fingerprint(source)
        if whole := self._finished(source.name, fingerprint):
            for index in range(0, whole["frames"], self.settings.every):
                if record := self._finished(_name(source, index), fingerprint):
                    yield Outcome(source, index, record, earlier=True)
            yield Outcome(source, None, whole, earlier=True)
            return
        try:
            video = open_video(source.path)
            timing = yield from self._frames(source, video, stage)
            motions = self._motions(source, timing)
        except _FAILURES as error:
            yield Outcome(source, None, None, _reason(error))
            return
        whole = {"name": source.name, "stamp": fingerprint, "said": [], "people": []}
        whole |= {"frames": timing.num_frames, "motions": motions}
        self.manifest.add(whole)
        yield Outcome(source, None, whole)

    def _frames(self, source: Source, video: Video, stage: Stage) -> Generator[Outcome, None, _Timing]:
        """Process every n-th frame. Returns what the container only estimates."""
        every, count, times_s, end_s = self.settings.every, 0, [], 0.0
        steps = -(-video.num_frames // every)
        tick, detector = stage(source.path.name, steps), self._video_detector()
        for frame in video.frames():
            count, end_s = frame.index + 1, frame.time_s + frame.duration_s
            if frame.index % every == 0:
                times_s.append(frame.time_s)
                yield self._frame(source, frame, detector)
                tick(min(count // every, steps - 1))
        tick(steps)
        return _Timing(count, [*times_s, end_s])

    def _video_detector(self) -> Detector:
        """For one video."""
        detector = self.models.policy.detector
        if isinstance(detector, PersonTracker) and not self.settings.boxes:
            return FollowedPeople(detector, self.settings.every)
        return detector

    def _frame(self, source: Source, frame: VideoFrame, detector: Detector) -> Outcome:
        time_s = round(frame.time_s, 6)
        outcome = self._picture(source, frame.index, lambda: photo_of(frame.read()), detector, time_s=time_s)
        if outcome.earlier and isinstance(detector, FollowedPeople):
            detector.skip(frame.read())
        return outcome

    def _motions(self, source: Source, timing: _Timing) -> list[Record]:
        """Write the motion of each person of a finished video."""
        if not self._motion_formats:
            return []
        fingerprint, every, tracks = self._fingerprint(source), self.settings.every, Tracks()
        for step, index in enumerate(range(0, timing.num_frames, every)):
            people = (self.manifest.find(_name(source, index), fingerprint) or {"people": []})["people"]
            tracks.add(step, [(Box(*person["bbox"]), _from_row(person["pose"])) for person in people])
        motions = []
        for number, track in enumerate(tracks.all):
            times_s = timing.times_s[track.first_step : track.last_step + 2]
            motion = Motion(BodyParams.stack(track.poses), tuple(times_s[:-1]), times_s[-1])
            if self.settings.smooth_s:
                motion = motion.smoothed(self.settings.smooth_s)
            files = self._write_motion(f"{source.name}-{number}", motion)
            record: Record = {"files": files, "first_frame": track.first_step * every}
            record |= {"time_s": round(times_s[0], 6), "duration_s": round(motion.duration_s, 6)}
            motions.append(record)
        return motions

    def _write_motion(self, name: str, motion: Motion) -> list[str]:
        paths = {kind: self.out / f"{name}.{kind}" for kind in self._motion_formats}
        if "glb" in paths:
            write_animated_glb(paths["glb"], motion, self.models.body)
        if "bvh" in paths:
            params, fps = motion.resampled()
            write_bvh(paths["bvh"], params, self.models.body, fps)
        return [str(path) for path in paths.values()]


def _reason(error: Exception) -> str:
    """Why an item failed. Raises the error again if the others would fail for the same reason."""
    if concerns_every_file(error):
        raise error
    return sentence_of(error)


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
