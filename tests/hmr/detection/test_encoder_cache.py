"""The encoder cache: one pass per sample, and never the output of another sample."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.image_embedding import EncoderEmbedder
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.encoder_cache import MAX_SAMPLES, EncoderCache
from hmr.detection.person_encoder import PersonEncoder
from hmr.types import Box, Camera, Sample


def sample(seed: int) -> Sample:
    image = np.random.default_rng(seed).integers(0, 255, (100, 80, 3), dtype=np.uint8)
    return Sample("same id", image, Box(20.0, 10.0, 60.0, 90.0), Camera.estimate(80, 100))


@pytest.fixture
def passes(tiny_encoder: PersonEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of each pass of the encoder."""
    counts: list[int] = []
    run_encoder = tiny_encoder.run_encoder
    monkeypatch.setattr(
        tiny_encoder, "run_encoder", lambda samples: (counts.append(len(samples)), run_encoder(samples))[1]
    )
    return counts


def test_detector_and_embedder_share_one_pass(tiny_encoder: PersonEncoder, passes: list[int]):
    encoder_cache, person = EncoderCache(tiny_encoder), sample(0)
    detection = EmbeddedDetector(tiny_encoder, encoder_cache=encoder_cache).detect(person)
    embedding = EncoderEmbedder(encoder_cache)(person)
    assert passes == [1]
    np.testing.assert_array_equal(embedding, EncoderEmbedder(EncoderCache(tiny_encoder))(person))
    again = EmbeddedDetector(tiny_encoder).detect(person)
    torch.testing.assert_close(detection.keypoints_px, again.keypoints_px)


def test_samples_are_compared_by_identity_not_by_id(tiny_encoder: PersonEncoder, passes: list[int]):
    encoder_cache, first = EncoderCache(tiny_encoder), sample(0)
    moved = replace(first, box=Box(25.0, 10.0, 65.0, 90.0))
    vectors = [encoder_cache.run_encoder([each]).vector for each in (first, sample(1), moved)]
    assert passes == [1, 1, 1]
    assert not any(torch.equal(vectors[0], other) for other in vectors[1:])
    assert torch.equal(encoder_cache.run_encoder([first]).vector, vectors[0])


def test_a_new_sample_at_the_address_of_a_deleted_one_is_encoded(
    tiny_encoder: PersonEncoder, passes: list[int]
):
    """New samples may have the same address in memory."""
    encoder_cache = EncoderCache(tiny_encoder)
    for seed in range(4):
        person = sample(seed)
        assert torch.equal(
            encoder_cache.run_encoder([person]).vector,
            tiny_encoder(tiny_encoder.crops([person])).vector,
        )
        del person
        gc.collect()
    assert passes == [1] * 4


def test_only_the_latest_samples_are_cached(tiny_encoder: PersonEncoder, passes: list[int]):
    encoder_cache, people = EncoderCache(tiny_encoder), [sample(seed) for seed in range(MAX_SAMPLES + 1)]
    for person in people:
        encoder_cache.run_encoder([person])
    encoder_cache.run_encoder(people[1:2])
    assert len(passes) == MAX_SAMPLES + 1
    encoder_cache.run_encoder(people[:1])
    assert len(passes) == MAX_SAMPLES + 2


def test_several_at_once_are_one_pass(tiny_encoder: PersonEncoder, passes: list[int]):
    assert len(EncoderCache(tiny_encoder).run_encoder([sample(0), sample(1)]).vector) == 2
    assert passes == [2]
