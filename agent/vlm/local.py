"""A vision-language model on this machine: `local:NAME_OR_FOLDER[+ADAPTER_FOLDER]`, through transformers.

Any model of transformers' image-text-to-text classes with a chat template will do; Qwen3-VL and Idefics3 (the
family of SmolVLM) are tested with tiny random weights. Answers are held to the schema by `agent.vlm.guided`. An
adapter is a LoRA folder as peft saves it, for a critic that was tuned.

Weights are safetensors and nothing else, and no code of a repository is ever run. What stands in a question is
text to the tokenizer even where it looks like a control token or an image's placeholder, so that no rule and no
photograph's caption can end the question and begin another. Revision and cache key follow the weights: the
commit of a hub's snapshot, or the sha256 of a folder's files.

Left out: batches (a critique asks few questions at once, and a lock keeps them in a row), quantised weights,
video, and the tiling by which Idefics3 magnifies a picture 16-fold, which panels this small do not need.
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
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    LogitsProcessorList,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from agent.vlm.guided import Grammars, bounded
from agent.vlm.protocol import Capabilities, ImagePart, Part, Reply, TextPart
from agent.vlm.settings import above_zero, read_settings

__all__ = ["LocalBackend", "LocalSettings", "from_argument", "load_local"]

Json = dict[str, Any]

WORDING = "1"  # raise it when the same question is put in other words
FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # of a hub's repository


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
        self._end_tokens = _end_tokens(model, processor.tokenizer)
        self._grammars = Grammars(processor.tokenizer, self._end_tokens)
        self._control = _control_tokens(processor.tokenizer)
        self._lock = threading.Lock()

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Answer in JSON of the schema, the same for the same seed.

        Raises ValueError where question and answer do not fit in the model's context.
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
        content = [item for part in parts for item in self._content(part)]
        content += self._content(TextPart(_answer_format(schema)))
        encoded = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return encoded.to(self.model.device, dtype=self.model.dtype)

    def _content(self, part: Part) -> list[Json]:
        if not isinstance(part, ImagePart):
            return [{"type": "text", "text": self._plain(part.text) + "\n"}]
        image = Image.open(io.BytesIO(part.png)).convert("RGB")
        image.thumbnail((self.settings.image_side_px, self.settings.image_side_px))
        return [
            {"type": "text", "text": self._plain(part.caption) + ":\n"},
            {"type": "image", "image": image},
        ]

    def _plain(self, text: str) -> str:
        """The text with a space in whatever spells a control token. (transformers' own `sanitize_control_tokens`
        is not understood by Idefics3's processor.)"""
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def _decoding(self) -> GenerationConfig:
        """Greedy for transformers; the guide draws."""
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._end_tokens[0],
        )

    def _check_room(self, asked: int) -> None:
        room = self.model.config.get_text_config().max_position_embeddings
        answer = self.settings.max_new_tokens
        if asked + answer > room:
            raise ValueError(
                f"a question of {asked} tokens and an answer of up to {answer} do not fit in the {room} tokens "
                f"of {self.name}; set max_images or max_new_tokens lower"
            )


def from_argument(argument: str, **settings: object) -> LocalBackend:
    """The backend of `local:ARGUMENT`, NAME_OR_FOLDER or NAME_OR_FOLDER+ADAPTER_FOLDER."""
    chosen = read_settings(LocalSettings, "local", settings)
    if Path(argument).is_dir():
        return load_local(argument, settings=chosen)
    name, _, adapter = argument.partition("+")
    return load_local(name, Path(adapter) if adapter else None, chosen)


def load_local(
    name: str, adapter: Path | None = None, settings: LocalSettings = LocalSettings()
) -> LocalBackend:
    """A model by hub name or folder, with an adapter; on the GPUs in bfloat16 where there are any, else in float32.

    Raises:
        FileNotFoundError: neither a folder nor in reach of the hub, or weights that are no safetensors.
        ValueError: not an image-text-to-text model, one that needs code of its own, no llguidance, or an adapter
            of another model.
    """
    if not name:
        raise ValueError("local: needs a model, such as local:Qwen/Qwen3-VL-4B-Instruct or local:FOLDER")
    folder = _snapshot(name)
    _check_kind(name, folder)
    gpu = torch.cuda.is_available()
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=torch.bfloat16 if gpu else torch.float32,
        device_map="auto" if gpu else None,
        use_safetensors=True,
        trust_remote_code=False,
    )
    revision = _digest(folder) if Path(name).is_dir() else folder.name
    if adapter is not None:
        model, revision = _adapted(model, adapter), f"{revision}+{_digest(adapter)}"
        name = f"{name}+{adapter.name}"
    return LocalBackend(model, _load_processor(folder), f"local:{name}", revision, settings)


def _snapshot(name: str) -> Path:
    """The folder itself, or the hub's repository in the local cache, fetched if it is not there."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"no model {name!r}: it is no folder, and the hub did not give it ({reason})"
        ) from error


def _check_kind(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{name} needs a config.json and *.safetensors; other formats are not read")
    kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"{name} is a {kind}: no image-text-to-text model, such as qwen3_vl or idefics3")


def _digest(folder: Path) -> str:
    """Content of the weights and their configuration."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def _adapted(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise FileNotFoundError(f"no LoRA adapter at {adapter}: there is no adapter_model.safetensors")
    try:
        return PeftModel.from_pretrained(model, adapter)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the adapter at {adapter} does not fit the model: {reason}") from error


def _load_processor(folder: Path) -> Any:
    """The model's own processor without its part for video, which would ask for torchvision."""
    kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(folder, trust_remote_code=False))]

    class ImagesAndText(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

    processor = ImagesAndText.from_pretrained(folder, trust_remote_code=False)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    return processor


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
