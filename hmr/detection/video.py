"""The people of a video: searched for in some frames, followed from frame to frame in between.

A search takes some twenty times as long as reading the people where they were in the frame before. What is found in a
frame depends only on the frames since the last search, so a run that continues in the middle of a video finds what an
uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from hmr.detection.protocol import FoundPerson, PersonFinder
from hmr.types import Box, Detection, Sample

__all__ = ["SEARCH_EVERY", "FollowedPeople", "PersonTracker"]

SEARCH_EVERY = 25  # frames of the video, about a second

Image = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class PersonTracker(PersonFinder, Protocol):
    """A detector that can follow people."""

    def track_people(self, previous: Sequence[Any], image: Image) -> Sequence[FoundPerson]:
        """The people of the previous frame who are still seen, and others who are found at little cost. `previous`:
        results of this detector."""
        ...


class FollowedPeople:
    """A detector for every n-th frame of one video, in order, each given to `find_people` or to `skip`."""

    def __init__(self, tracker: PersonTracker, every: int = 1) -> None:
        self.tracker, self.name = tracker, tracker.name
        self._search_every = max(1, SEARCH_EVERY // every)
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
        is_due = self._step % self._search_every == 0
        if is_due:
            self._skipped = []
        self._skipped.append((is_due, image))
        self._step += 1

    def detect(self, sample: Sample) -> Detection:
        return self.tracker.detect(sample)

    def _next(self, image: Image, is_due: bool) -> Sequence[FoundPerson]:
        return self.tracker.find_people(image) if is_due else self.tracker.track_people(self._people, image)
