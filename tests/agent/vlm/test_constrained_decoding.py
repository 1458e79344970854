"""Bounds of schemas, and the distribution of sampled tokens."""

import numpy as np
import pytest
import torch

from agent.prompts.answers import MineAnswer, TagAnswer, Verdict, keyed_by_label
from agent.vlm.local.constrained_decoding import GrammarLogitsProcessor, bound_schema


def test_bounds_are_those_of_the_answer_checks_and_nothing_else_changes():
    schema = keyed_by_label("score", Verdict, ["A", "B"]).model_json_schema()
    bounded = bound_schema(schema, 20)
    verdict = bounded["$defs"]["Verdict"]["properties"]
    assert (verdict["score"]["minimum"], verdict["score"]["maximum"]) == (0, 100)
    assert verdict["comment"]["pattern"].endswith("{0,20}$")
    assert list(bounded["properties"]) == ["A", "B"]
    assert "maxLength" not in verdict["comment"]


def test_lists_and_their_items_are_bounded():
    tags = bound_schema(TagAnswer.model_json_schema(), 160)["properties"]["tags"]
    assert tags["maxItems"] == 12
    assert tags["items"]["pattern"].endswith("{0,40}$")
    rule = bound_schema(MineAnswer.model_json_schema(), 160)["$defs"]["MinedRule"]["properties"]
    assert rule["weight"]["maximum"] == 10
    assert "pattern" not in rule["comparison"]  # an enumeration is bounded already
    assert "maximum" not in rule["threshold"]


class AllowsThree:
    """A matcher over eight tokens that always allows 1, 2 and 5."""

    def __init__(self) -> None:
        self.consumed: list[int] = []

    def compute_bitmask(self) -> bytes:
        return bytes([0b00100110])

    def consume_tokens(self, tokens: list[int]) -> bool:
        self.consumed += tokens
        return True

    def is_error(self) -> bool:
        return False


def sampled_shares(temperature: float, logits: torch.Tensor, count: int = 1000) -> np.ndarray:
    prompt = torch.zeros(1, 1, dtype=torch.long)
    processor = GrammarLogitsProcessor(AllowsThree(), temperature, seed=0)
    tokens = [int(processor(prompt, logits[None]).argmax()) for _ in range(count)]
    return np.bincount(tokens, minlength=len(logits)) / count


def test_samples_follow_the_softmax_of_the_allowed_tokens():
    logits = torch.tensor([9.0, 0.0, 1.0, 9.0, 9.0, 2.0, 9.0, 9.0, 9.0])  # the ninth is beyond the vocabulary
    shares = sampled_shares(1.0, logits)
    # softmax of (0, 1, 2): 1, e, e^2 over 1 + e + e^2 = 11.107
    assert shares[[1, 2, 5]] == pytest.approx([0.090, 0.245, 0.665], abs=0.05)
    assert shares[[0, 3, 4, 6, 7, 8]].sum() == 0
    # at half the temperature the logits count double: 1, e^2, e^4 over 62.99
    assert sampled_shares(0.5, logits)[[1, 2, 5]] == pytest.approx([0.016, 0.117, 0.867], abs=0.05)


def test_without_temperature_the_most_likely_token_is_selected():
    assert sampled_shares(0.0, torch.tensor([9.0, 0.0, 1.0, 9, 9, 0.5, 9, 9]), count=5)[2] == 1.0


def test_the_matcher_receives_every_token_once_and_no_prompt():
    matcher = AllowsThree()
    processor = GrammarLogitsProcessor(matcher, 0.0, seed=0)
    logits = torch.zeros(1, 8)
    for tokens in ([7, 7], [7, 7, 1], [7, 7, 1, 5]):
        processor(torch.tensor([tokens]), logits)
    assert matcher.consumed == [1, 5]


def test_a_schema_that_cannot_be_compiled_is_refused():
    llguidance = pytest.importorskip("llguidance")
    tokens = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema({"type": "string", "pattern": "("})
    with pytest.raises(ValueError, match="cannot be compiled for this model"):
        GrammarLogitsProcessor(llguidance.LLMatcher(tokens, grammar), 0.0, 0)
