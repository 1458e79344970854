"""Tracks people through a video by the overlap of their boxes in successive frames.

Boxes are matched greedily, the largest overlap first: SORT (Bewley et al., ICIP 2016, arXiv 1602.00763) without its
Kalman filter. A person who is not detected for up to MAX_GAP steps keeps the track if they reappear in the same place.
Left out: matching by appearance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hmr.types import BodyParams, Box

__all__ = ["Track", "Tracks"]

MIN_OVERLAP = 0.3  # intersection over union
MAX_GAP = 10  # steps without the person; the last pose is repeated


@dataclass
class Track:
    """The poses of one person, one per step from `first_step`. A step is a processed frame."""

    first_step: int
    box: Box
    poses: list[BodyParams] = field(default_factory=list)  # batch shape () each
    people: list[int | None] = field(
        default_factory=list
    )  # index among the step's people; None: not detected

    @property
    def last_step(self) -> int:
        return self.first_step + len(self.poses) - 1


class Tracks:
    def __init__(self) -> None:
        self.all: list[Track] = []

    def add(self, step: int, people: Sequence[tuple[Box, BodyParams]]) -> None:
        """Add the people of the next processed frame."""
        live = [track for track in self.all if step - track.last_step <= MAX_GAP]
        pairs = sorted(
            ((track.box.iou(box), t, p) for t, track in enumerate(live) for p, (box, _) in enumerate(people)),
            key=lambda pair: (-pair[0], *pair[1:]),
        )
        owners: dict[int, Track] = {}
        for shared, t, p in pairs:
            if (
                shared >= MIN_OVERLAP
                and p not in owners
                and not any(live[t] is owner for owner in owners.values())
            ):
                owners[p] = live[t]
        for p, (box, pose) in enumerate(people):
            if p not in owners:
                owners[p] = Track(step, box)
                self.all.append(owners[p])
            _extend(owners[p], step, p, box, pose)


def _extend(track: Track, step: int, person: int, box: Box, pose: BodyParams) -> None:
    missed = step - track.first_step - len(track.poses)
    track.poses += [*track.poses[-1:] * missed, pose]
    track.people += [*[None] * missed, person]
    track.box = box
