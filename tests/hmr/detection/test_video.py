"""Searching and following in videos, with a detector that notes what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hmr.detection.video import GLANCE_EVERY, SEARCH_EVERY, FollowedPeople, PersonTracker
from hmr.types import Box, Detection, Sample


@dataclass(frozen=True)
class Seen:
    """How somebody was found in a frame: each step of following is one more."""

    searched_in: int
    steps: int = 0

    @property
    def box(self) -> Box:
        return Box(10.0, 8.0, 50.0, 60.0)

    @property
    def detection(self) -> Detection:
        return Detection.from_points([], torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))


class Noting:
    """Frames are pictures of one pixel that holds their number. In the frames `losing` nobody is seen."""

    name = "noting"

    def __init__(self, losing: Sequence[int] = ()) -> None:
        self.losing, self.searches, self.glances = losing, [], []

    def find(self, image: np.ndarray) -> list[Box]:
        return [person.box for person in self.find_people(image)]

    def detect(self, sample: Sample) -> Detection:
        return Seen(0).detection

    def find_people(self, image: np.ndarray) -> list[Seen]:
        self.searches.append(int(image[0, 0, 0]))
        return [Seen(int(image[0, 0, 0]))]

    def track_people(
        self, previous: Sequence[Seen], image: np.ndarray, with_glance: bool = True
    ) -> list[Seen]:
        self.glances += [int(image[0, 0, 0])] if with_glance else []
        if int(image[0, 0, 0]) in self.losing:
            return []
        return [Seen(person.searched_in, person.steps + 1) for person in previous]


def frame(number: int) -> np.ndarray:
    return np.full((1, 1, 3), number, np.uint8)


def follow(tracker: Noting, count: int, finished: int = 0, every: int = 1) -> list[Sequence[Seen]]:
    """What is found in the frames from `finished` on; an earlier run found the ones before."""
    people = FollowedPeople(tracker, every)
    for number in range(finished):
        people.skip(frame(number))
    return [people.find_people(frame(number)) for number in range(finished, count)]


def test_people_are_searched_for_once_a_second_and_followed_in_between():
    tracker = Noting()
    found = follow(tracker, 2 * SEARCH_EVERY + 1)
    assert tracker.searches == [0, SEARCH_EVERY, 2 * SEARCH_EVERY]
    assert [people[0].steps for people in found] == [*range(SEARCH_EVERY)] * 2 + [0]


@pytest.mark.parametrize(("every", "searches"), [(10, [0, 2, 4]), (40, [0, 1, 2, 3, 4])])
def test_the_frames_that_are_left_out_count(every: int, searches: list[int]):
    tracker = Noting()
    follow(tracker, 5, every=every)
    assert tracker.searches == searches


@pytest.mark.parametrize(("every", "step"), [(1, GLANCE_EVERY), (2, GLANCE_EVERY // 2), (10, 1)])
def test_the_whole_frame_is_glanced_at_several_times_between_two_searches(every: int, step: int):
    tracker = Noting()
    search = SEARCH_EVERY // every
    follow(tracker, search + 1, every=every)
    assert tracker.glances == [*range(step, search, step)]


def test_somebody_who_is_lost_is_found_again_by_the_next_search():
    tracker = Noting(losing=[3])
    found = follow(tracker, SEARCH_EVERY + 1)
    assert tracker.searches == [0, SEARCH_EVERY]
    assert [len(people) for people in found] == [1, 1, 1, *[0] * (SEARCH_EVERY - 3), 1]


@pytest.mark.parametrize("finished", [1, 4, SEARCH_EVERY, SEARCH_EVERY + 3])
def test_a_resumed_video_finds_what_an_uninterrupted_one_does(finished: int):
    count, losing = 2 * SEARCH_EVERY, [3, SEARCH_EVERY + 1]
    assert follow(Noting(losing), count, finished) == follow(Noting(losing), count)[finished:]


def test_frames_before_the_last_search_are_not_looked_at_again():
    tracker = Noting()
    follow(tracker, SEARCH_EVERY + 4, finished=SEARCH_EVERY + 3)
    assert tracker.searches == [SEARCH_EVERY]


def test_blazepose_is_a_tracker():
    from hmr.detection.blazepose.detector import load_blazepose

    assert isinstance(load_blazepose(), PersonTracker)
    assert isinstance(Noting(), PersonTracker)
