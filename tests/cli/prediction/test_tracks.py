"""Tracks of people from frame to frame."""

import torch

from cli.prediction.tracks import MAX_GAP, Tracks
from hmr.types import BodyParams, Box


def pose(number: float) -> BodyParams:
    return BodyParams(torch.full((3,), float(number)), torch.zeros(23, 3), torch.zeros(10), torch.zeros(3))


def box(x: float) -> Box:
    return Box(float(x), 0.0, x + 10.0, 20.0)


def numbers(tracks: Tracks) -> list[list[float]]:
    return [[float(pose.global_orient[0]) for pose in track.poses] for track in tracks.all]


def test_moving_people_keep_their_tracks_in_any_order_of_boxes():
    tracks = Tracks()
    tracks.add(0, [(box(0), pose(1)), (box(50), pose(2))])
    tracks.add(1, [(box(53), pose(2)), (box(2), pose(1))])  # 8 * 20 of 240: 0.67; 7 * 20 of 260: 0.54
    assert numbers(tracks) == [[1, 1], [2, 2]]


def test_a_track_takes_one_person_per_step():
    tracks = Tracks()
    tracks.add(0, [(box(0), pose(1))])
    tracks.add(1, [(box(3), pose(3)), (box(1), pose(1))])
    assert numbers(tracks) == [[1, 1], [3]]


def test_the_last_pose_is_repeated_while_a_person_is_not_detected():
    tracks = Tracks()
    tracks.add(4, [(box(0), pose(1))])
    tracks.add(7, [(box(1), pose(2))])
    assert numbers(tracks) == [[1, 1, 1, 2]]  # steps 4, 5, 6, 7
    assert tracks.all[0].first_step == 4


def test_a_person_who_reappears_after_the_gap_gets_a_new_track():
    tracks = Tracks()
    tracks.add(0, [(box(0), pose(1))])
    tracks.add(MAX_GAP + 1, [(box(0), pose(2))])
    assert numbers(tracks) == [[1], [2]]
