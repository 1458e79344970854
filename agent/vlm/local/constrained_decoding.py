"""Decoding that can only end in JSON of a given schema, and is repeatable from a seed.

llguidance (an extra) turns the schema into a grammar and says before every step which tokens may come next; all
others are masked, so that a model too small to keep a format in mind still answers in it. Among what is left
the draw is made here and not by transformers, whose own sampling uses the global generator:

| letter | meaning                                                                          |
|--------|----------------------------------------------------------------------------------|
| z      | logits of the next token, forbidden ones at minus infinity                       |
| T      | temperature; 0 takes the most likely token                                       |
| g      | Gumbel noise, -log(e) with e ~ Exp(1), from a generator seeded by the question's |
| token  | argmax (z + T g), which is a draw from softmax(z / T) (Gumbel, 1954)             |

Left out: jumping over tokens that the grammar forces, a speed-up that transformers' `generate` has no room for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["Grammars", "Guide", "bounded", "fitting"]

Json = dict[str, Any]

BARRED = r'"\\\x00-\x1f\x7f'  # in strings: quotes, backslashes and control characters
ITEMS = 8  # of a list
ITEM_CHARS = 60  # of a string in a list, as `agent.prompts.answers` checks
RANGES = {"score": (0, 100), "weight": (0, 10)}  # as `agent.prompts.answers` checks


def bounded(schema: Mapping[str, Any], chars: int, name: str = "") -> Json:
    """The schema with every string, list and score bounded, so that no answer runs on until it is cut off.

    Portable schemas carry no bounds, since some providers reject them; a grammar can hold to them. Strings have
    at most `chars` characters and no quotes, backslashes or control characters.
    """
    tight = dict(schema)
    for group in ("properties", "$defs"):
        if group in schema:
            tight[group] = {key: bounded(value, chars, key) for key, value in schema[group].items()}
    if schema.get("type") == "array":
        tight |= {"items": bounded(schema["items"], min(chars, ITEM_CHARS)), "maxItems": ITEMS}
    elif schema.get("type") == "string" and "enum" not in schema:
        tight["pattern"] = rf"^[^{BARRED}]{{0,{chars}}}$"
    elif schema.get("type") == "number" and name in RANGES:
        tight["minimum"], tight["maximum"] = RANGES[name]
    return tight


def fitting(text: str, chars: int) -> str:
    """A string as a bounded answer may hold it: what is barred becomes an apostrophe, what is too long is cut."""
    return re.sub(f"[{BARRED}]", "'", text)[:chars]


class Grammars:
    """Schemas as grammars over one model's tokens.

    Raises ValueError where llguidance is not installed, or does not know the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: list[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ValueError(
                "a local model needs llguidance to answer in JSON: pip install 'meshcritic[local]'"
            ) from error
        self.tokens: LLTokenizer = from_tokenizer(tokenizer, eos_token=end_tokens)  # pyright: ignore[reportArgumentType]

    def guide(self, schema: Mapping[str, Any], temperature: float, seed: int) -> Guide:
        """What holds one answer to the schema. Raises ValueError for a schema that is no grammar."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_flexible": False})
        return Guide(LLMatcher(self.tokens, grammar), temperature, seed)


class Guide(LogitsProcessor):
    """One answer in the making, for a batch of one and greedy decoding."""

    def __init__(self, matcher: Any, temperature: float, seed: int) -> None:
        self.matcher = matcher
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.consumed = -1  # tokens that the matcher knows of, prompt included
        self._check()

    def __call__(
        self, input_ids: Int[Tensor, "1 tokens"], scores: Float[Tensor, "1 vocabulary"]
    ) -> Float[Tensor, "1 vocabulary"]:
        if self.consumed >= 0:
            self.matcher.consume_tokens(input_ids[0, self.consumed :].tolist())
        self.consumed = input_ids.shape[1]
        allowed = torch.from_numpy(self._allowed(scores.shape[1])).to(scores.device)
        self._check()
        return (scores + self.temperature * self._gumbel(scores)).masked_fill(~allowed, -torch.inf)

    def _allowed(self, vocabulary: int) -> Bool[np.ndarray, "vocabulary"]:
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.zeros(vocabulary, bool)  # a model may have more logits than its tokenizer has tokens
        allowed[: len(bits)] = bits[:vocabulary]
        return allowed

    def _gumbel(self, scores: Float[Tensor, "1 vocabulary"]) -> Float[Tensor, "1 vocabulary"]:
        noise = torch.empty(scores.shape).exponential_(generator=self.generator)
        return -noise.log().to(scores)

    def _check(self) -> None:
        if self.matcher.is_error():
            raise ValueError(f"the schema is no grammar for this model: {self.matcher.get_error()[:200]}")
