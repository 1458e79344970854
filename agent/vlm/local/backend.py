"""Backend for a transformers model on this machine: `local:NAME_OR_FOLDER[+ADAPTER_FOLDER]` or `local:ADAPTER_FOLDER`.

Supported are the image-text-to-text models of transformers that have a chat template; Qwen3-VL and Idefics3 (the
architecture of SmolVLM) are tested with tiny random weights. `agent.vlm.local.constrained_decoding` makes every answer
fit its schema, and `agent.vlm.local.model_loading` finds and loads the model. An adapter is a LoRA folder in peft's
format, for example a critic tuned by `rl.critic_tuning`.

Control tokens and image placeholders inside a question are escaped, so no rule or caption can end the question and
start another one.

Left out: batches (a critique has few concurrent questions; a lock answers them one by one), and video.
"""

from __future__ import annotations

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

from agent.vlm.local.constrained_decoding import GrammarCompiler, bound_schema
from agent.vlm.local.model_loading import find_model, load_processor, load_weights
from agent.vlm.protocol import Capabilities, ImagePart, Part, Reply, TextPart, Unanswerable
from agent.vlm.settings import read_settings, require_from_zero, require_positive
from common.storage.fingerprint import json_digest

__all__ = ["ChatEncoder", "LocalBackend", "LocalSettings", "context_limit", "from_argument", "load_local"]

Json = dict[str, Any]

QUESTION_FORMAT = "1"  # increase when the same question is encoded differently


@dataclass(frozen=True)
class LocalSettings:
    """Settings of this backend for `--set field=value`."""

    temperature: float = 0.3  # low, but above 0: each label order is sampled independently
    max_new_tokens: int = 4096
    comment_chars: int = 160  # per sentence; generating them takes most of the time of an answer
    image_side_px: int = 1024  # larger pictures are scaled down
    max_images: int | None = 9  # per question: a group of eight and the photograph

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens", "comment_chars", "image_side_px", "max_images")
        require_from_zero(self, "temperature")


class LocalBackend:
    """One loaded model. Thread-safe; answers one question at a time."""

    def __init__(self, model: Any, processor: Any, name: str, weights: str, settings: LocalSettings) -> None:
        self.model = model.eval()
        self.processor = processor
        self.settings = settings
        self.name = name
        self.revision = f"{weights}-{_settings_digest(settings)}"
        self.capabilities = Capabilities(
            images=True, max_images=settings.max_images, length_setting="max_new_tokens"
        )
        self.chat_encoder = ChatEncoder(processor, settings.image_side_px)
        self._end_tokens = _end_tokens(model, processor.tokenizer)
        self._grammars = GrammarCompiler(processor.tokenizer, self._end_tokens)
        self._lock = threading.Lock()

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Generate JSON of the schema; the same seed gives the same answer.

        Raises Unanswerable if question and answer do not fit in the model's context.
        """
        start = time.perf_counter()
        grammar = bound_schema(schema, self.settings.comment_chars)
        with self._lock, torch.inference_mode():
            question = self._encode(parts, schema)
            prompt_tokens = question["input_ids"].shape[1]
            self._check_context(prompt_tokens)
            constraint = self._grammars.compile(grammar, self.settings.temperature, seed)
            tokens = self.model.generate(
                **question,
                generation_config=self._generation_config(),
                logits_processor=LogitsProcessorList([constraint]),
            )
        answer = tokens[0, prompt_tokens:]
        text = self.processor.tokenizer.decode(answer, skip_special_tokens=True)
        finish = "" if int(answer[-1]) in self._end_tokens else "length"
        return Reply(text, (time.perf_counter() - start) * 1e3, prompt_tokens, len(answer), finish=finish)

    def _encode(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> Any:
        encoded = self.chat_encoder.encode(parts, schema)
        return encoded.to(self.model.device, dtype=self.model.dtype)

    def _generation_config(self) -> GenerationConfig:
        """Greedy decoding: the logits processor adds the sampling noise."""
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._end_tokens[0],
        )

    def _check_context(self, prompt_tokens: int) -> None:
        limit, answer = context_limit(self.model.config), self.settings.max_new_tokens
        if prompt_tokens + answer > limit:
            raise Unanswerable(
                f"a question of {prompt_tokens} tokens and an answer of up to {answer} do not fit in the {limit} "
                f"tokens of {self.name}; reduce max_images or max_new_tokens"
            )


class ChatEncoder:
    """Encodes questions with a model's chat template, for the backend and for critic tuning alike."""

    def __init__(self, processor: Any, image_side_px: int = LocalSettings.image_side_px) -> None:
        self.processor = processor
        self.image_side_px = image_side_px
        self._control = _control_tokens(processor.tokenizer)

    def messages(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> list[Json]:
        """One user message in the format of chat templates; pictures are PIL images."""
        content = [item for part in parts for item in self.content(part)]
        return [{"role": "user", "content": content + self.content(TextPart(_answer_format(schema)))}]

    def content(self, part: Part) -> list[Json]:
        """The content items of one part; a picture follows its caption."""
        if not isinstance(part, ImagePart):
            return [{"type": "text", "text": self._escape(part.text) + "\n"}]
        image = Image.open(io.BytesIO(part.png)).convert("RGB")
        image.thumbnail((self.image_side_px, self.image_side_px))
        return [
            {"type": "text", "text": self._escape(part.caption) + ":\n"},
            {"type": "image", "image": image},
        ]

    def encode(self, parts: Sequence[Part], schema: Mapping[str, Any]) -> Any:
        """The question as tokens and pixels, up to the start of the answer, as a batch of one."""
        return self.processor.apply_chat_template(
            self.messages(parts, schema),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _escape(self, text: str) -> str:
        """The text with a space inserted into each control token. (Idefics3's processor does not support
        `sanitize_control_tokens` of transformers.)"""
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def from_argument(argument: str, **settings: object) -> LocalBackend:
    """The backend of `local:ARGUMENT`; `agent.vlm.local.model_loading` lists the forms of an argument."""
    return load_local(argument, read_settings(LocalSettings, "local", settings))


def load_local(argument: str, settings: LocalSettings = LocalSettings()) -> LocalBackend:
    """A model with its adapter, in bfloat16 on GPUs if there are any, otherwise in float32.

    Raises the exceptions of `find_model` and `load_weights`, and ValueError if llguidance is not installed.
    """
    found = find_model(argument)
    model = load_weights(found)
    return LocalBackend(model, load_processor(found), f"local:{found.name}", found.revision, settings)


def context_limit(config: Any) -> int:
    """The maximum number of tokens of question and answer together, from a model's configuration."""
    return config.get_text_config().max_position_embeddings


def _settings_digest(settings: LocalSettings) -> str:
    """Digest of the settings that affect an answer, for the cache key."""
    settings_of_answers = [
        QUESTION_FORMAT,
        settings.temperature,
        settings.max_new_tokens,
        settings.comment_chars,
        settings.image_side_px,
    ]
    return json_digest(settings_of_answers, length=8)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return sorted({token for token in [*ends, tokenizer.eos_token_id] if token is not None})


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    control = {text for text in added if text.startswith("<")} | set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))


def _answer_format(schema: Mapping[str, Any]) -> str:
    return f"Answer with JSON of this schema, and nothing else:\n{json.dumps(schema)}"
