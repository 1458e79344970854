"""Constrained decoding: the output is always JSON of a given schema, and repeatable from a seed.

llguidance (an extra) compiles the schema into a grammar and computes before every step which tokens are allowed; the
others are masked, so even a model too small to follow a format answers in it. The allowed tokens are sampled here and
not by transformers, whose sampling uses the global generator:

| symbol | meaning                                                                          |
|--------|----------------------------------------------------------------------------------|
| z      | logits of the next token, minus infinity for tokens that are not allowed         |
| T      | temperature; 0 selects the most likely token                                     |
| g      | Gumbel noise, -log(e) with e ~ Exp(1), from a generator with the question's seed |
| token  | argmax (z + T g), which is a sample of softmax(z / T) (Gumbel, 1954)             |

Left out: skipping tokens that the grammar determines, which `generate` of transformers does not support.
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

__all__ = ["GrammarCompiler", "GrammarLogitsProcessor", "bound_schema", "sanitise_string"]

Json = dict[str, Any]

FORBIDDEN_CHARS = r'"\\\x00-\x1f\x7f'  # in strings: quotes, backslashes and control characters


def bound_schema(schema: Mapping[str, Any], chars: int) -> Json:
    """The schema with strings of at most `chars` characters and without quotes, backslashes or control characters.

    The limits of the schema on numbers, lists and shorter strings stay, so every answer ends.
    """
    bounded = dict(schema)
    for group in ("properties", "$defs"):
        if group in schema:
            bounded[group] = {key: bound_schema(value, chars) for key, value in schema[group].items()}
    if "anyOf" in schema:
        bounded["anyOf"] = [bound_schema(value, chars) for value in schema["anyOf"]]
    if schema.get("type") == "array":
        bounded["items"] = bound_schema(schema["items"], chars)
    elif schema.get("type") == "string" and "enum" not in schema:
        limit = min(chars, bounded.pop("maxLength", chars))  # one of pattern and maxLength is enough
        bounded["pattern"] = rf"^[^{FORBIDDEN_CHARS}]{{0,{limit}}}$"
    return bounded


def sanitise_string(text: str, chars: int) -> str:
    """A string that fits `bound_schema`: forbidden characters become apostrophes, and at most `chars` are kept."""
    return re.sub(f"[{FORBIDDEN_CHARS}]", "'", text)[:chars]


class GrammarCompiler:
    """Compiles schemas into grammars over the tokens of one model.

    Raises ValueError if llguidance is not installed or does not support the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: list[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ValueError(
                "a local model needs llguidance to answer in JSON: pip install 'meshcritic[local]'"
            ) from error
        self.tokens: LLTokenizer = from_tokenizer(tokenizer, eos_token=end_tokens)  # pyright: ignore[reportArgumentType]

    def compile(self, schema: Mapping[str, Any], temperature: float, seed: int) -> GrammarLogitsProcessor:
        """The constraint for one answer. Raises ValueError for a schema that cannot be compiled."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_flexible": False})
        return GrammarLogitsProcessor(LLMatcher(self.tokens, grammar), temperature, seed)


class GrammarLogitsProcessor(LogitsProcessor):
    """Masks and perturbs the logits while one answer is generated, for a batch of one and greedy decoding."""

    def __init__(self, matcher: Any, temperature: float, seed: int) -> None:
        self.matcher = matcher
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.consumed = -1  # tokens passed to the matcher, prompt included; -1 before the first step
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
        allowed = np.zeros(vocabulary, bool)  # a model can have more logits than its tokenizer has tokens
        allowed[: len(bits)] = bits[:vocabulary]
        return allowed

    def _gumbel(self, scores: Float[Tensor, "1 vocabulary"]) -> Float[Tensor, "1 vocabulary"]:
        noise = torch.empty(scores.shape).exponential_(generator=self.generator)
        return -noise.log().to(scores)

    def _check(self) -> None:
        if self.matcher.is_error():
            raise ValueError(
                f"the schema cannot be compiled for this model: {self.matcher.get_error()[:200]}"
            )
