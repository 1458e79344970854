"""People followed through a video: boxes of successive frames joined where they overlap, then a motion for each.

Greedy, the best overlap first: SORT (Bewley et al., ICIP 2016, arXiv 1602.00763) without its Kalman filter. A person
unseen for a moment is the same person if they come back to the same place. Left out: recognising people by their
look, and smoothing (every frame is posed alone, so motions tremble).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hmr.detection.embedded import overlap
from hmr.types import BodyParams, Box

__all__ = ["Track", "Tracks"]

MIN_OVERLAP = 0.3  # intersection over union
MAX_GAP = 10  # looks without the person; their last pose is held


@dataclass
class Track:
    """One person from look to look; a look is a frame that was asked for."""

    first_look: int
    box: Box
    poses: list[BodyParams] = field(default_factory=list)  # batch shape () each; a held pose is there again

    @property
    def last_look(self) -> int:
        return self.first_look + len(self.poses) - 1


class Tracks:
    def __init__(self) -> None:
        self.all: list[Track] = []

    def add(self, look: int, people: Sequence[tuple[Box, BodyParams]]) -> None:
        """The people of the next frame."""
        live = [track for track in self.all if look - track.last_look <= MAX_GAP]
        pairs = sorted(
            (
                (overlap(track.box, box), t, p)
                for t, track in enumerate(live)
                for p, (box, _) in enumerate(people)
            ),
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
                owners[p] = Track(look, box)
                self.all.append(owners[p])
            _extend(owners[p], look, box, pose)


def _extend(track: Track, look: int, box: Box, pose: BodyParams) -> None:
    held = look - track.first_look - len(track.poses)
    track.poses += [*track.poses[-1:] * held, pose]
    track.box = box
