"""Looks that several parts share: one pass a sample, and never another sample's."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.image_embedding import PolicyEmbedder
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.encoder_cache import REMEMBERED, EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Sample


def sample(seed: int) -> Sample:
    image = np.random.default_rng(seed).integers(0, 255, (100, 80, 3), dtype=np.uint8)
    return Sample("same id", image, Box(20.0, 10.0, 60.0, 90.0), Camera.estimate(80, 100))


@pytest.fixture
def passes(tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each pass of the encoder saw."""
    seen: list[int] = []
    see = tiny_policy.see
    monkeypatch.setattr(tiny_policy, "see", lambda samples: (seen.append(len(samples)), see(samples))[1])
    return seen


def test_detector_and_embedder_share_one_pass(tiny_policy: DiffusionPolicy, passes: list[int]):
    eyes, person = EncoderCache(tiny_policy), sample(0)
    detection = EmbeddedDetector(tiny_policy, eyes=eyes).detect(person)
    where = PolicyEmbedder(tiny_policy, eyes)(person)
    assert passes == [1]
    np.testing.assert_array_equal(where, PolicyEmbedder(tiny_policy)(person))
    again = EmbeddedDetector(tiny_policy).detect(person)
    torch.testing.assert_close(detection.keypoints_px, again.keypoints_px)


def test_a_sample_is_known_by_itself_and_not_by_its_name(tiny_policy: DiffusionPolicy, passes: list[int]):
    eyes, first = EncoderCache(tiny_policy), sample(0)
    moved = replace(first, box=Box(25.0, 10.0, 65.0, 90.0))
    looks = [eyes.see([each]).vector for each in (first, sample(1), moved)]
    assert passes == [1, 1, 1]
    assert not any(torch.equal(looks[0], other) for other in looks[1:])
    assert torch.equal(eyes.see([first]).vector, looks[0])


def test_where_a_forgotten_sample_stood_another_is_seen_anew(tiny_policy: DiffusionPolicy, passes: list[int]):
    """Samples come and go at the same place in memory; each must get its own look."""
    eyes = EncoderCache(tiny_policy)
    for seed in range(4):
        person = sample(seed)
        assert torch.equal(
            eyes.see([person]).vector, tiny_policy.encode_crops(tiny_policy.crops([person])).vector
        )
        del person
        gc.collect()
    assert passes == [1] * 4


def test_only_the_latest_are_remembered(tiny_policy: DiffusionPolicy, passes: list[int]):
    eyes, people = EncoderCache(tiny_policy), [sample(seed) for seed in range(REMEMBERED + 1)]
    for person in people:
        eyes.see([person])
    eyes.see(people[1:2])
    assert len(passes) == REMEMBERED + 1
    eyes.see(people[:1])
    assert len(passes) == REMEMBERED + 2


def test_several_at_once_are_one_pass(tiny_policy: DiffusionPolicy, passes: list[int]):
    assert len(EncoderCache(tiny_policy).see([sample(0), sample(1)]).vector) == 2
    assert passes == [2]
