"""A vision-language model on this machine: `local:NAME_OR_FOLDER[+ADAPTER_FOLDER]` or `local:ADAPTER_FOLDER`, through
transformers.

Any model of transformers' image-text-to-text classes with a chat template will do; Qwen3-VL and Idefics3 (the
family of SmolVLM) are tested with tiny random weights. Answers are held to the schema by `agent.vlm.local.constrained_decoding`;
`agent.vlm.local.model_loading` finds and loads the model. An adapter is a LoRA folder as peft saves it, for a critic that was
tuned (`rl.critic_tuning`).

What stands in a question is text to the tokenizer even where it looks like a control token or an image's
placeholder, so that no rule and no photograph's caption can end the question and begin another.

Left out: batches (a critique asks few questions at once, and a lock keeps them in a row), and video.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessorList

from agent.vlm.local.constrained_decoding import Grammars, bounded
from agent.vlm.local.model_loading import find_model, load_processor, load_weights
from agent.vlm.protocol import Capabilities, ImagePart, Part, Reply, TextPart, Unanswerable
from agent.vlm.settings import above_zero, read_settings

__all__ = ["LocalBackend", "LocalSettings", "Phrasing", "from_argument", "load_local", "room"]

Json = dict[str, Any]

WORDING = "1"  # raise it when the same question is put in other words


@dataclass(frozen=True)
class LocalSettings:
    """What `--set field=value` can change of this backend."""

    temperature: float = (
        0.3  # low: unlikely tokens stay so; above 0: every label order gets a draw of its own
    )
    max_new_tokens: int = 4096
    comment_chars: int = 160  # of every sentence; writing them takes most of the time of an answer
    image_side_px: int = 1024  # longer pictures are shown smaller
    max_images: int | None = 9  # in one question: a group of eight and the photograph

    def __post_init__(self) -> None:
        above_zero(self, "max_new_tokens", "comment_chars", "image_side_px", "max_images")
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")


class LocalBackend:
    """One loaded model; thread-safe, one question at a time."""

    def __init__(self, model: Any, processor: Any, name: str, weights: str, settings: LocalSettings) -> None:
        self.model = model.eval()
        self.processor = processor
        self.settings = settings
        self.name = name
        self.revision = f"{weights}-{_shaping(settings)}"
        self.capabilities = Capabilities(images=True, max_images=settings.max_images)
        self.phrasing = Phrasing(processor, settings.image_side_px)
        self._end_tokens = _end_tokens(model, processor.tokenizer)
        self._grammars = Grammars(processor.tokenizer, self._end_tokens)
        self._lock = threading.Lock()

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Answer in JSON of the schema, the same for the same seed.

        Raises Unanswerable where question and answer do not fit in the model's context.
        """
        start = time.perf_counter()
        grammar = bounded(schema, self.settings.comment_chars)
        with self._lock, torch.inference_mode():
            question = self._encode(parts, schema)
            asked = question["input_ids"].shape[1]
            self._check_room(asked)
            guide = self._grammars.guide(grammar, self.settings.temperature, seed)
            tokens = self.model.generate(
                **question, generation_config=self._decoding(), logits_processor=LogitsProcessorList([guide])
            )
        answer = tokens[0, asked:]
        text = self.processor.tokenizer.decode(answer, skip_special_tokens=True)
        return Reply(text, (time.perf_counter() - start) * 1e3, asked, len(answer))

    def _encode(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> Any:
        encoded = self.phrasing.encode(parts, schema)
        return encoded.to(self.model.device, dtype=self.model.dtype)

    def _decoding(self) -> GenerationConfig:
        """Greedy for transformers; the guide draws."""
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._end_tokens[0],
        )

    def _check_room(self, asked: int) -> None:
        tokens, answer = room(self.model.config), self.settings.max_new_tokens
        if asked + answer > tokens:
            raise Unanswerable(
                f"a question of {asked} tokens and an answer of up to {answer} do not fit in the {tokens} tokens "
                f"of {self.name}; set max_images or max_new_tokens lower"
            )


class Phrasing:
    """A question in the words and pictures that a model is given; whoever trains a critic asks it the same."""

    def __init__(self, processor: Any, image_side_px: int = LocalSettings.image_side_px) -> None:
        self.processor = processor
        self.image_side_px = image_side_px
        self._control = _control_tokens(processor.tokenizer)

    def messages(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> list[Json]:
        """One user's turn, as chat templates take it; pictures are PIL images."""
        content = [item for part in parts for item in self.content(part)]
        return [{"role": "user", "content": content + self.content(TextPart(_answer_format(schema)))}]

    def content(self, part: Part) -> list[Json]:
        """One part, a picture after its caption."""
        if not isinstance(part, ImagePart):
            return [{"type": "text", "text": self._plain(part.text) + "\n"}]
        image = Image.open(io.BytesIO(part.png)).convert("RGB")
        image.thumbnail((self.image_side_px, self.image_side_px))
        return [
            {"type": "text", "text": self._plain(part.caption) + ":\n"},
            {"type": "image", "image": image},
        ]

    def encode(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> Any:
        """The question as tokens and pixels, a batch of one, up to where the answer begins."""
        return self.processor.apply_chat_template(
            self.messages(parts, schema),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _plain(self, text: str) -> str:
        """The text with a space in whatever spells a control token. (transformers' own `sanitize_control_tokens`
        is not understood by Idefics3's processor.)"""
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def from_argument(argument: str, **settings: object) -> LocalBackend:
    """The backend of `local:ARGUMENT`; what an argument can be stands in `agent.vlm.local.model_loading`."""
    return load_local(argument, read_settings(LocalSettings, "local", settings))


def load_local(argument: str, settings: LocalSettings = LocalSettings()) -> LocalBackend:
    """A model with its adapter; on the GPUs in bfloat16 where there are any, else in float32.

    Raises what `find_model` and `load_weights` do, and ValueError without llguidance.
    """
    found = find_model(argument)
    model = load_weights(found)
    return LocalBackend(model, load_processor(found), f"local:{found.name}", found.revision, settings)


def room(config: Any) -> int:
    """Tokens that question and answer may come to together, by a model's configuration."""
    return config.get_text_config().max_position_embeddings


def _shaping(settings: LocalSettings) -> str:
    """The settings that shape an answer, for the cache key."""
    shaping = [
        WORDING,
        settings.temperature,
        settings.max_new_tokens,
        settings.comment_chars,
        settings.image_side_px,
    ]
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:8]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({token for token in [*ends, tokenizer.eos_token_id] if token is not None})


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    spelt = [token.content for token in tokenizer.added_tokens_decoder.values()]
    control = {text for text in spelt if text.startswith("<")} | set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))


def _answer_format(schema: Mapping[str, Any]) -> str:
    return f"Answer with JSON of this schema, and nothing else:\n{json.dumps(schema)}"
