"""The people of a video: searched for in some frames, followed from frame to frame in between.

A search takes some twenty times as long as reading the people where they were in the frame before, and a glance at the
frame as a whole about as long as reading one person. What is found in a frame depends only on the frames since the last
search, so a run that continues in the middle of a video finds what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from hmr.detection.protocol import FoundPerson, PersonFinder
from hmr.types import Box, Detection, Sample

__all__ = ["GLANCE_EVERY", "SEARCH_EVERY", "FollowedPeople", "PersonTracker"]

SEARCH_EVERY = 25  # frames of the video, about a second
GLANCE_EVERY = 5

Image = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class PersonTracker(PersonFinder, Protocol):
    """A detector that can follow people."""

    def track_people(
        self, previous: Sequence[Any], image: Image, with_glance: bool = True
    ) -> Sequence[FoundPerson]:
        """The people of the previous frame who are still seen, and of those who are not whoever is found nearby.

        previous: results of this detector. with_glance: others too who are found at little cost.
        """
        ...


class FollowedPeople:
    """A detector for every n-th frame of one video, in order, each given to `find_people` or to `skip`."""

    def __init__(self, tracker: PersonTracker, every: int = 1) -> None:
        self.tracker, self.name = tracker, tracker.name
        self._search_every = max(1, SEARCH_EVERY // every)
        self._glance_every = max(1, GLANCE_EVERY // every)
        self._step = 0  # of the next frame
        self._skipped: list[tuple[int, Image]] = []  # since the last search, with their steps
        self._people: Sequence[FoundPerson] = ()

    def find(self, image: Image) -> list[Box]:
        return [person.box for person in self.find_people(image)]

    def find_people(self, image: Image) -> Sequence[FoundPerson]:
        """The people of the next frame."""
        self.skip(image)
        for step, frame in self._skipped:
            self._people = self._next(step, frame)
        self._skipped = []
        return self._people

    def skip(self, image: Image) -> None:
        """Pass a frame whose people are not needed, or not yet."""
        if self._step % self._search_every == 0:
            self._skipped = []
        self._skipped.append((self._step, image))
        self._step += 1

    def detect(self, sample: Sample) -> Detection:
        return self.tracker.detect(sample)

    def _next(self, step: int, image: Image) -> Sequence[FoundPerson]:
        since_search = step % self._search_every
        if since_search == 0:
            return self.tracker.find_people(image)
        return self.tracker.track_people(self._people, image, since_search % self._glance_every == 0)
