from __future__ import annotations

import numpy as np
import pytest

from memory.vectors.embed import (
    ClipEmbedder,
    PackagedEmbedder,
    SentenceEmbedder,
    TextEmbedder,
    load_text_embedder,
)
from tests.memory.clip_model import tiny_clip

SENTENCES = (
    "the knee bends backwards beyond its limit",
    "the leg is hyperextended at the joint",
    "the feet float above the ground",
)


@pytest.fixture(scope="module")
def minilm() -> PackagedEmbedder:
    """The packaged model; the tests block sockets, so it is loaded offline."""
    found = load_text_embedder()
    assert isinstance(found, PackagedEmbedder)
    return found


def test_packaged_model_gives_unit_vectors(minilm):
    assert isinstance(minilm, TextEmbedder)
    vectors = minilm.embed(SENTENCES)
    assert vectors.shape == (3, minilm.dim) == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_similar_sentences_have_similar_embeddings(minilm):
    knee, leg, feet = minilm.embed(SENTENCES)
    assert knee @ leg > knee @ feet + 0.1


def test_an_embedding_does_not_depend_on_the_batch(minilm):
    fresh = PackagedEmbedder(minilm._folder)
    alone = fresh.embed(SENTENCES[2:])[0]
    np.testing.assert_array_equal(alone, minilm.embed(SENTENCES)[2])


def test_the_packaged_model_gives_the_vectors_of_sentence_transformers(minilm):
    """A memory stores them under one name and revision, whichever of the two wrote them."""
    texts = [*SENTENCES, "", "a person, pose:upright", "Ärger, 膝 and \N{GRINNING FACE}", "too long " * 200]
    theirs = SentenceEmbedder(minilm.name, minilm._folder)
    assert (theirs.dim, theirs.revision) == (minilm.dim, minilm.revision)
    np.testing.assert_array_equal(minilm.embed(texts), theirs.embed(texts))


def test_the_packaged_model_is_loaded_once(minilm):
    assert load_text_embedder() is minilm


def test_the_revision_depends_on_the_files(minilm, tmp_path):
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(content)
    first, second = (load_text_embedder(str(tmp_path / name)) for name in "ab")
    assert first.revision != second.revision
    assert first.name == "a"


def test_another_name_is_a_hub_model():
    assert load_text_embedder("BAAI/bge-small-en-v1.5").name == "BAAI/bge-small-en-v1.5"


@pytest.mark.slow
def test_clip_embeds_images_of_any_size(tmp_path):
    embedder = ClipEmbedder(str(tiny_clip(tmp_path / "clip")))
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, size, np.uint8) for size in ((20, 50, 3), (60, 40, 3))]
    vectors = embedder.embed(images)
    assert vectors.shape == (2, embedder.dim) == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(images[1:])[0], vectors[1], atol=1e-5)
    assert abs(vectors[0] @ vectors[1]) < 0.9999  # different pictures, different places


@pytest.mark.slow
def test_the_name_of_clip_depends_on_its_weights_and_not_on_the_path(tmp_path):
    names = [ClipEmbedder(str(tiny_clip(tmp_path / where / "clip", seed))).name for where, seed in
             (("a", 0), ("b", 0), ("c", 1))]  # fmt: skip
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("clip:clip@")
