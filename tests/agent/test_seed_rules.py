"""The seed rules' vectors: in a file, valid for the sentences and the model that it was written with."""

import dataclasses

import numpy as np
import pytest

from agent.default import open_default_memory
from agent.seed_rules import load_seed_rules, load_seed_vectors, load_seed_weights
from hmr.policy.checkpoint import load_policy
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


def weights_of(rules):
    return {rule.predicate.condition: rule.predicate.weight for rule in rules}


def test_the_weights_of_a_detector_replace_those_written_by_hand():
    fitted, hand = load_seed_weights("blazepose"), load_seed_rules()
    weighed = load_seed_rules(fitted)
    assert weights_of(weighed) == fitted != weights_of(hand)
    assert sum(fitted.values()) == pytest.approx(sum(weights_of(hand).values()), abs=0.01)
    assert [rule.text for rule in weighed] == [rule.text for rule in hand]
    assert {(rule.state, rule.provenance.kind) for rule in weighed} == {("admitted", "seed")}


def test_weights_must_be_of_all_rules():
    with pytest.raises(KeyError, match="reprojection"):
        load_seed_rules({})


def test_variants_of_a_detector_share_its_weights_and_others_have_none():
    assert load_seed_weights("blazepose:heavy") == load_seed_weights("blazepose")
    assert load_seed_weights("embedded") is None


@pytest.mark.parametrize(("detector", "known"), [("blazepose", "blazepose"), ("embedded", None)])
def test_a_new_memory_has_the_weights_for_the_detector_that_measures(detector, known):
    with open_default_memory(None, load_policy(detector=detector), frozen=False) as memory:
        expected = load_seed_rules(known and load_seed_weights(known))
        assert weights_of(memory.rules.all()) == weights_of(expected)
