"""The motions of a video's people, from the poses in the records of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cli.prediction.tracks import Tracks
from common.storage.jsonl import Record
from hmr.body.export import write_animated_glb, write_bvh
from hmr.body.model import Body
from hmr.body.motion import Motion
from hmr.types import BodyParams, Box

__all__ = ["MOTION_FORMATS", "MovingPerson", "find_motions", "pose_row", "write_motion"]

MOTION_FORMATS: tuple[str, ...] = ("glb", "bvh")  # with one file per person of a video
MIN_DETECTIONS = 3  # of somebody who disappears before the video ends; fewer are taken for a false detection


@dataclass(frozen=True)
class MovingPerson:
    """A step is a processed frame."""

    first_step: int
    motion: Motion
    people: tuple[int | None, ...]  # by step: index among the people of the frame; None while not detected

    def index_at(self, step: int) -> int | None:
        """Which of a frame's people this is; None if they are not detected there."""
        own = step - self.first_step
        return self.people[own] if 0 <= own < len(self.people) else None


def find_motions(
    records: Sequence[Record], times_s: Sequence[float], smooth_s: float = 0.0
) -> list[MovingPerson]:
    """The people of a video, without those who are seen in a few frames only (as SORT's `min_hits`).

    records: of the processed frames. times_s: of those, and at last the end of the video.
    """
    tracks = Tracks()
    for step, record in enumerate(records):
        tracks.add(step, [(Box(*person["bbox"]), _pose_from(person["pose"])) for person in record["people"]])
    moving = []
    for track in tracks.all:
        detections = sum(index is not None for index in track.people)
        if detections < MIN_DETECTIONS and track.last_step < len(records) - 1:
            continue
        times = times_s[track.first_step : track.last_step + 2]
        motion = Motion(BodyParams.stack(track.poses), tuple(times[:-1]), times[-1])
        if smooth_s:
            motion = motion.smoothed(smooth_s)
        moving.append(MovingPerson(track.first_step, motion, tuple(track.people)))
    return moving


def write_motion(stem: Path, formats: Sequence[str], motion: Motion, body: Body) -> list[Path]:
    """Write a motion in some of MOTION_FORMATS; returns the paths."""
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in formats}
    if "glb" in paths:
        write_animated_glb(paths["glb"], motion, body)
    if "bvh" in paths:
        params, fps = motion.resampled()
        write_bvh(paths["bvh"], params, body, fps)
    return list(paths.values())


def pose_row(params: BodyParams) -> list[float]:
    """The numbers of one body (batch shape ()) for a record."""
    columns = (params.global_orient, params.body_pose.flatten(), params.betas, params.transl)
    return [round(value, 6) for value in torch.cat(columns).tolist()]


def _pose_from(row: Sequence[float]) -> BodyParams:
    orient, pose, betas, transl = torch.tensor(row).split([3, 69, 10, 3])
    return BodyParams(orient, pose.reshape(23, 3), betas, transl)
