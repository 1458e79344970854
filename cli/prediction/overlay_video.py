"""The bodies of a video's people over the video: as they are in the motions, each in one colour from start to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from cli.photos.drawing import DrawnPerson, draw_people
from cli.photos.people import Person
from cli.prediction.motions import MovingPerson
from cli.prediction.run import PredictionRun
from cli.prediction.sources import Source
from common.progress import Stage
from common.storage.jsonl import Record
from hmr.images.photographs import photo_of
from hmr.images.video_writing import TimedPicture, write_video
from hmr.images.videos import Video
from hmr.types import POINT_NAMES, Box, Detection

__all__ = ["points_of", "write_overlay_video"]

MAX_SIDE = {".mp4": 1280, ".gif": 640}  # pixels; larger videos are reduced


def write_overlay_video(
    run: PredictionRun,
    source: Source,
    video: Video,
    records: Sequence[Record],
    moving: Sequence[MovingPerson],
    stage: Stage,
) -> Path:
    """Draw everybody over the processed frames, whose records are `records`. Returns the path."""
    suffix = ".gif" if source.path.suffix.lower() == ".gif" else ".mp4"
    path = run.out / f"{source.name}-overlay{suffix}"

    def pictures() -> Iterator[TimedPicture]:
        tick = stage(path.name, len(records))
        frames = (frame for frame in video.frames() if frame.index % run.settings.every == 0)
        for step, (frame, record) in enumerate(zip(frames, records, strict=True)):
            photo, people = photo_of(frame.read()), _people_at(step, record, moving)
            picture = draw_people(
                photo.image, run.camera(photo), people, run.models.body, run.models.renderer, MAX_SIDE[suffix],
                supersampling=1,
            )  # fmt: skip
            yield TimedPicture(picture, frame.time_s, frame.duration_s)
            tick(step + 1)

    write_video(path, pictures())
    return path


def points_of(person: Person) -> dict[str, list[float]]:
    """What the detector reported of a person, for the record of a frame: x, y and visibility by the point's name."""
    if (detection := person.detection) is None:
        return {}
    columns = torch.cat([detection.points_px, detection.visibility[:, None]], dim=1).tolist()
    reported = zip(POINT_NAMES, columns, detection.observed.tolist(), strict=True)
    return {name: [round(value, 3) for value in row] for name, row, observed in reported if observed}


def _people_at(step: int, record: Record, moving: Sequence[MovingPerson]) -> list[DrawnPerson]:
    """Those who are detected in a frame, numbered as their motions are."""
    shown = []
    for number, person in enumerate(moving):
        if (index := person.index_at(step)) is not None:
            entry, pose = record["people"][index], person.motion.params[step - person.first_step]
            detection = _detection(entry["points"]) if entry.get("points") else None
            shown.append(DrawnPerson(number, pose, Box(*entry["bbox"]), detection))
    return shown


def _detection(points: dict[str, list[float]]) -> Detection:
    columns = torch.tensor(list(points.values()))
    return Detection.from_points(
        list(points), columns[:, :2], sigma_px=torch.zeros(len(points)), visibility=columns[:, 2]
    )
