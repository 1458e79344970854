"""The people of a video: searched for in some frames, followed from frame to frame in between.

A search of a whole frame takes many times longer than reading a person where they were in the frame before. What is
found in a frame depends only on the frames since the last one that was due for a search, so a run that continues in the
middle of a video finds what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from hmr.detection.protocol import FoundPerson, PersonFinder
from hmr.types import Box, Detection, Sample

__all__ = ["SEARCH_EVERY", "FollowedPeople", "PersonTracker"]

SEARCH_EVERY = 10  # processed frames; people who enter the picture are found then

Image = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class PersonTracker(PersonFinder, Protocol):
    """A detector that can follow people."""

    def track_people(self, previous: Sequence[Any], image: Image) -> Sequence[FoundPerson]:
        """The people of the previous frame who are still seen. `previous`: results of this detector."""
        ...


class FollowedPeople:
    """A detector for the frames of one video, which must be given in order, each to `find_people` or to `skip`."""

    def __init__(self, tracker: PersonTracker) -> None:
        self.tracker, self.name = tracker, tracker.name
        self._step = 0  # of the next frame
        self._skipped: list[tuple[bool, Image]] = []  # since the last search, and whether a search was due
        self._people: Sequence[FoundPerson] = ()

    def find(self, image: Image) -> list[Box]:
        return [person.box for person in self.find_people(image)]

    def find_people(self, image: Image) -> Sequence[FoundPerson]:
        """The people of the next frame."""
        self.skip(image)
        for is_due, frame in self._skipped:
            self._people = self._next(frame, is_due)
        self._skipped = []
        return self._people

    def skip(self, image: Image) -> None:
        """Pass a frame whose people are not needed, or not yet."""
        is_due = self._step % SEARCH_EVERY == 0
        if is_due:
            self._skipped = []
        self._skipped.append((is_due, image))
        self._step += 1

    def detect(self, sample: Sample) -> Detection:
        return self.tracker.detect(sample)

    def _next(self, image: Image, is_due: bool) -> Sequence[FoundPerson]:
        """Somebody who was lost may have moved far: the whole frame is searched again."""
        if is_due:
            return self.tracker.find_people(image)
        followed = self.tracker.track_people(self._people, image)
        return followed if len(followed) == len(self._people) else self.tracker.find_people(image)
