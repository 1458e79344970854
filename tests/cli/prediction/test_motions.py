"""The motions of a video's people, from the records of its frames."""

from __future__ import annotations

import pytest
import torch

from cli.prediction.motions import find_motions, pose_row
from common.storage.jsonl import Record
from hmr.types import BodyParams


def frame(*boxes: tuple[float, float, float, float], x: float = 0.0) -> Record:
    return {"people": [{"bbox": box, "pose": pose_row(standing(x))} for box in boxes]}


def standing(x: float) -> BodyParams:
    return BodyParams(torch.zeros(3), torch.zeros(23, 3), torch.zeros(10), torch.tensor([x, 0.0, 4.0]))


LEFT, RIGHT = (0.0, 0.0, 10.0, 20.0), (50.0, 0.0, 60.0, 20.0)


def test_somebody_is_followed_through_frames_in_which_they_are_not_detected():
    records = [frame(LEFT, x=1), frame(RIGHT, x=2), frame(RIGHT, LEFT, x=3)]
    first, second = find_motions(records, [0.0, 0.1, 0.3, 0.4])
    assert [first.index_at(step) for step in range(4)] == [0, None, 1, None]
    assert [second.index_at(step) for step in range(3)] == [None, 0, 0]
    assert first.motion.params.transl[:, 0].tolist() == [1, 1, 3]
    assert (second.motion.times_s, second.motion.end_s) == ((0.1, 0.3), 0.4)


@pytest.mark.parametrize(("frames", "is_shown"), [(1, False), (2, False), (3, True)])
def test_somebody_who_is_seen_in_a_few_frames_only_is_left_out(frames: int, is_shown: bool):
    records = [frame(LEFT, RIGHT)] * frames + [frame(LEFT)] * 3
    assert len(find_motions(records, [float(step) for step in range(len(records) + 1)])) == 1 + is_shown


def test_somebody_who_appears_in_the_last_frame_is_kept():
    assert len(find_motions([frame(LEFT), frame(LEFT, RIGHT)], [0.0, 1.0, 2.0])) == 2
