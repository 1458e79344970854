"""The seed rules' vectors: in a file, valid for the sentences and the model that it was written with."""

import dataclasses

import numpy as np
import pytest

from agent.seed_rules import load_seed_rules, load_seed_vectors
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.vectors.embed import load_text_embedder
from tests.agent.critique_case import HashEmbedder


class Packaged:
    """The name and revision of the default model; it must not be asked."""

    name, revision, dim = load_text_embedder().name, load_text_embedder().revision, 384

    def embed(self, texts):
        raise AssertionError(f"python -m agent.seed_rules was not run after a change; embedded: {texts}")


def test_the_file_holds_what_the_model_gives():
    rules = load_seed_rules()
    vectors = load_seed_vectors(rules, Packaged())
    expected = load_text_embedder().embed([rule.text for rule in rules])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)  # another processor may round otherwise


def test_other_sentences_and_other_models_are_embedded():
    first, *rest = load_seed_rules()
    with pytest.raises(AssertionError, match="another sentence"):
        load_seed_vectors([dataclasses.replace(first, text="another sentence"), *rest], Packaged())
    embedder = HashEmbedder()
    expected = embedder.embed([rule.text for rule in (first, *rest)])
    np.testing.assert_array_equal(load_seed_vectors([first, *rest], embedder), expected)


def test_a_memory_stores_given_vectors_with_their_rules():
    rules = load_seed_rules()[:4]
    memory = RuleMemory(MemoryStore(":memory:"), Packaged())
    vectors = load_seed_vectors(load_seed_rules(), Packaged())[:4]
    memory.add(rules[1:2], vectors=vectors[1:2])
    memory.add(rules, vectors=vectors)  # one of them is known
    np.testing.assert_array_equal(memory.embeddings(rules), vectors)
