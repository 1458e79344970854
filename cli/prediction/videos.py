"""Predicts the people of a video: found frame by frame, sampled in batches of frames, written as motions.

    OUT/CLIP-000120-0.npz ...   the files of a person in a frame, of the formats npz and obj
    OUT/CLIP-0.glb, CLIP-0.bvh  the motion of a person through the video
    OUT/CLIP-overlay.mp4        everybody over the video, as they are in the motions; of a GIF CLIP-overlay.gif

A batch of frames is the unit of work: a run that continues in the middle of one samples all of it again, so that its
results are those of an unbroken run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from cli.photos.people import DetectedPerson, Person
from cli.photos.person_files import save_formats
from cli.prediction.motions import MOTION_FORMATS, find_motions, pose_row, write_motion
from cli.prediction.overlay_video import points_of, write_overlay_video
from cli.prediction.run import ITEM_FAILURES, Outcome, PredictionRun, reason_of
from cli.prediction.sources import Source
from common.progress import Stage
from common.storage.jsonl import Record
from hmr.detection.video import FollowedPeople, PersonTracker
from hmr.images.photographs import Photo, photo_of
from hmr.images.videos import Video, open_video
from hmr.types import Detector

__all__ = ["BATCH_FRAMES", "predict_video"]

BATCH_FRAMES = 8  # sampling two people in as many frames takes hardly longer than one


def predict_video(run: PredictionRun, source: Source, stage: Stage) -> Iterator[Outcome]:
    """One outcome per processed frame, and one for the whole video."""
    yield from _VideoPrediction(run, source).outcomes(stage)


@dataclass(frozen=True)
class _Frame:
    index: int
    time_s: float
    photo: Photo


@dataclass(frozen=True)
class _Timing:
    """Of a whole video, known when all its frames have been decoded."""

    num_frames: int
    times_s: list[float]  # of the processed frames, and at last the end of the video


class _VideoPrediction:
    def __init__(self, run: PredictionRun, source: Source) -> None:
        self.run, self.source, self.every = run, source, run.settings.every
        # earlier versions wrote other files per frame
        self.fingerprint = run.fingerprint(source, "with times", "sampled in batches")

    def outcomes(self, stage: Stage) -> Iterator[Outcome]:
        run, source = self.run, self.source
        if whole := run.finished(source.name, self.fingerprint):
            yield from self._earlier(whole)
            return
        try:
            video = open_video(source.path)
            timing = yield from self._frames(video, stage)
            whole = self._write_whole(video, timing, stage)
        except ITEM_FAILURES as error:
            yield Outcome(source, None, None, reason_of(error))
            return
        run.finish(whole)
        yield Outcome(source, None, whole)

    def _earlier(self, whole: Record) -> Iterator[Outcome]:
        for index in range(0, whole["frames"], self.every):
            if record := self._finished(index):
                yield Outcome(self.source, index, record, earlier=True)
        yield Outcome(self.source, None, whole, earlier=True)

    # -- frames ----------------------------------------------------------------------------------------------

    def _frames(self, video: Video, stage: Stage) -> Generator[Outcome, None, _Timing]:
        """Process every n-th frame. Returns what the container only estimates."""
        count, times_s, end_s = 0, [], 0.0
        steps = -(-video.num_frames // self.every)
        tick, detector = stage(self.source.path.name, steps), self._detector()
        batch: list[_Frame] = []
        for frame in video.frames():
            count, end_s = frame.index + 1, frame.time_s + frame.duration_s
            if frame.index % self.every == 0:
                times_s.append(frame.time_s)
                batch.append(_Frame(frame.index, round(frame.time_s, 6), photo_of(frame.read())))
            if len(batch) == BATCH_FRAMES:
                yield from self._batch(batch, detector)
                tick(min(len(times_s), steps - 1))
                batch = []
        yield from self._batch(batch, detector)
        tick(steps)
        return _Timing(count, [*times_s, end_s])

    def _detector(self) -> Detector:
        """For one video."""
        detector = self.run.models.policy.detector
        if isinstance(detector, PersonTracker) and not self.run.settings.boxes:
            return FollowedPeople(detector, self.every)
        return detector

    def _batch(self, frames: Sequence[_Frame], detector: Detector) -> Iterator[Outcome]:
        records = [self._finished(frame.index) for frame in frames]
        if all(records):
            if isinstance(detector, FollowedPeople):
                for frame in frames:
                    detector.skip(frame.photo.image)
            for frame, record in zip(frames, records, strict=True):
                yield Outcome(self.source, frame.index, record, earlier=True)
            return
        try:
            posed = self._pose(frames, detector)
        except ITEM_FAILURES as error:
            reason = reason_of(error)
            yield from (Outcome(self.source, frame.index, None, reason) for frame in frames)
            return
        for frame, record, (people, messages) in zip(frames, records, posed, strict=True):
            if record:
                yield Outcome(self.source, frame.index, record, earlier=True)
            else:
                yield self._write_frame(frame, people, messages)

    def _pose(self, frames: Sequence[_Frame], detector: Detector) -> list[tuple[list[Person], list[str]]]:
        """The people of each frame, and messages about them."""
        found: list[list[DetectedPerson]] = []
        messages: list[list[str]] = []
        for frame in frames:
            people, notes = self.run.find(frame.photo, self.source.title(frame.index), detector)
            found.append(people)
            messages.append(notes)
        posed = iter(self.run.sample([person for people in found for person in people]))
        return [([next(posed) for _ in people], notes) for people, notes in zip(found, messages, strict=True)]

    def _write_frame(self, frame: _Frame, people: Sequence[Person], messages: list[str]) -> Outcome:
        name = self._name(frame.index)
        try:
            written = [self._write(f"{name}-{number}", person) for number, person in enumerate(people)]
        except ITEM_FAILURES as error:
            return Outcome(self.source, frame.index, None, reason_of(error))
        record: Record = {
            "name": name,
            "fingerprint": self.fingerprint,
            "messages": messages,
            "time_s": frame.time_s,
            "camera": self.run.describe_camera(frame.photo),
            "people": written,
        }
        self.run.finish(record)
        return Outcome(self.source, frame.index, record)

    def _write(self, name: str, person: Person) -> Record:
        """The record holds what the motions and the overlay are made of at the end of the video."""
        run, stem = self.run, self.run.out / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        formats = [kind for kind in run.settings.formats if kind not in MOTION_FORMATS]
        with torch.no_grad():
            files = save_formats(stem, person, run.models.body, formats)
        record = {**run.describe_person(person, files), "pose": pose_row(person.hypotheses.params[0])}
        return {**record, "points": points_of(person)} if run.settings.skeleton else record

    # -- the whole video -------------------------------------------------------------------------------------

    def _write_whole(self, video: Video, timing: _Timing, stage: Stage) -> Record:
        run, name = self.run, self.source.name
        indices = range(0, timing.num_frames, self.every)
        records = [self._finished(index) or {"people": []} for index in indices]
        moving = find_motions(records, timing.times_s, run.settings.smooth_s)
        formats = [kind for kind in MOTION_FORMATS if kind in run.settings.formats]
        motions = []
        for number, person in enumerate(moving if formats else []):
            paths = write_motion(run.out / f"{name}-{number}", formats, person.motion, run.models.body)
            motions.append(
                {
                    "files": [str(path) for path in paths],
                    "first_frame": person.first_step * self.every,
                    "time_s": round(person.motion.times_s[0], 6),
                    "duration_s": round(person.motion.duration_s, 6),
                }
            )
        whole: Record = {"name": name, "fingerprint": self.fingerprint, "messages": [], "people": []}
        whole |= {"frames": timing.num_frames, "motions": motions}
        if moving:
            whole["overlay"] = str(write_overlay_video(run, self.source, video, records, moving, stage))
        return whole

    def _finished(self, index: int) -> Record | None:
        return self.run.finished(self._name(index), self.fingerprint)

    def _name(self, index: int) -> str:
        return f"{self.source.name}-{index:06d}"
