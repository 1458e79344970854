"""The shipped detector and policy on a real photograph (tests/data/photograph/NOTICE.md)."""

from pathlib import Path

import pytest

from cli.photos.people import find_people, sample_people
from hmr.body.model import Body
from hmr.images.photographs import load_photo
from hmr.policy.checkpoint import load_policy

PHOTO = Path(__file__).parents[2] / "data" / "photograph" / "basketball.jpg"
PLAYERS = 5
MAX_DISTANCE = 0.12  # of the box's side, from detected joints to those of hypothesis 0; .03 to .08 is usual


@pytest.mark.slow
def test_bodies_lie_on_the_players(body: Body):
    policy, photo = load_policy(detector="blazepose"), load_photo(PHOTO)
    found, messages = find_people(photo, "basketball.jpg", policy.detector, [])
    assert len(found) >= PLAYERS
    assert all("is uncertain (confidence 0." in message for message in messages)
    for person in sample_people(found, policy, num_samples=4, seed=0):
        assert person.detection is not None
        joints_px = person.hypotheses.camera.project(body.joints(person.hypotheses.params[:1]))[0]
        seen = person.detection.observed[:24] & (person.detection.keypoint_visibility > 0.5)
        distance_px = (joints_px - person.detection.keypoints_px).norm(dim=-1)[seen].mean()
        assert distance_px < MAX_DISTANCE * person.sample.box.side
