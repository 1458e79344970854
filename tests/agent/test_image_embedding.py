"""Image embeddings for prototype retrieval."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.context import SampleEmbedder
from agent.default import open_default_memory
from agent.image_embedding import ClipSampleEmbedder, EncoderEmbedder, load_image_embedder
from hmr.detection.encoder_cache import EncoderCache
from hmr.detection.person_encoder import PersonEncoder
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box
from tests.agent.critique_case import sample
from tests.memory.clip_model import tiny_clip


def test_the_name_depends_on_the_encoder(tiny_encoder: PersonEncoder):
    name = EncoderEmbedder(EncoderCache(tiny_encoder)).name
    with torch.no_grad():
        next(tiny_encoder.parameters()).add_(1.0)
    assert EncoderEmbedder(EncoderCache(tiny_encoder)).name != name


def test_a_memory_explored_with_another_encoder_is_refused(
    tiny_policy: DiffusionPolicy, tiny_encoder: PersonEncoder, tmp_path
):
    with open_default_memory(tmp_path, tiny_policy, frozen=False) as memory:
        memory.prototypes.add([])
    with torch.no_grad():
        next(tiny_encoder.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="image_embedder"):
        open_default_memory(tmp_path, tiny_policy, frozen=True)


@pytest.mark.parametrize("spec", ["", "clip", "clip:", "policy:x", "dino:small"])
def test_an_unknown_embedder_is_refused_with_the_known_ones(spec):
    with pytest.raises(ValueError, match="embedded and clip:NAME"):
        load_image_embedder(spec)


@pytest.mark.slow
def test_clip_embeds_only_the_persons_crop(tmp_path):
    embedder = load_image_embedder(f"clip:{tiny_clip(tmp_path / 'clip')}")
    assert isinstance(embedder, ClipSampleEmbedder)
    assert isinstance(embedder, SampleEmbedder)
    seen = replace(sample("a"), box=Box(40.0, 40.0, 80.0, 80.0))
    where = embedder(seen)
    assert where.shape == (embedder.dim,) == (8,)
    assert np.linalg.norm(where) == pytest.approx(1.0, abs=1e-5)
    image = seen.image.copy()
    image[:30] = 0  # above the crop: its side is 1.25 x 40 pixels about (60, 60), so it begins at 35
    np.testing.assert_array_equal(embedder(replace(seen, image=image)), where)
    image[60:70, 50:60] = 255
    assert not np.array_equal(embedder(replace(seen, image=image)), where)
