"""Finds and loads a vision-language model by name or folder, with its processor and its adapter.

    NAME_OR_FOLDER                   the model
    NAME_OR_FOLDER+ADAPTER_FOLDER    the model with a LoRA adapter in peft's format
    ADAPTER_FOLDER                   the same; the adapter's configuration names its model

Used by the backend `local:` and by `rl.critic_tuning`. Only safetensors weights are read, and no code from a repository
is run. The revision identifies the weights: the commit of a hub snapshot, or the sha256 of a folder's files. Left out:
quantised weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from common.hub import hub_access
from common.redaction import first_line
from common.storage.fingerprint import digest, file_digest

__all__ = ["FoundModel", "find_model", "load_processor", "load_weights"]

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # downloaded from a hub repository
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class FoundModel:
    """A model that was found on this machine."""

    base: str  # name on the hub, or absolute path
    folder: Path
    name: str  # as requested, with the adapter's; written to traces
    revision: str  # of the weights, with the adapter's; part of cache keys
    adapter: Path | None = None


def find_model(argument: str) -> FoundModel:
    """The model of an argument (module docstring), downloaded from the hub if it is not in the local cache.

    Raises:
        FileNotFoundError: no such folder or hub model, no safetensors weights, or no adapter.
        ValueError: the argument is empty, or the model is not an image-text-to-text model.
    """
    if not argument:
        raise ValueError("local: needs a model, such as local:Qwen/Qwen3-VL-4B-Instruct or local:FOLDER")
    name, adapter = _split(argument)
    folder = _snapshot(name, adapter)
    _check_kind(name, folder)
    is_folder = Path(name).is_dir()
    base, revision = (str(Path(name).resolve()), _digest(folder)) if is_folder else (name, folder.name)
    if adapter is None:
        return FoundModel(base, folder, name, revision)
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"no LoRA adapter at {adapter}: there is no {ADAPTER_WEIGHTS}")
    return FoundModel(base, folder, f"{name}+{adapter.name}", f"{revision}+{_digest(adapter)}", adapter)


def load_weights(found: FoundModel, trainable: bool = False) -> Any:
    """The model, in bfloat16 if there is a GPU, otherwise in float32. A `trainable` model is not distributed over GPUs,
    and its adapter can be trained further.

    Raises ValueError for a model that requires remote code and for an adapter of another model.
    """
    gpu = torch.cuda.is_available()
    model = AutoModelForImageTextToText.from_pretrained(
        found.folder,
        dtype=torch.bfloat16 if gpu else torch.float32,
        device_map="auto" if gpu and not trainable else None,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model if found.adapter is None else _adapted(model, found.adapter, trainable)


def load_processor(found: FoundModel) -> Any:
    """The model's processor without video support, which needs torchvision, and without Idefics3's tiling, which
    enlarges a picture 16-fold and is not needed for small panels."""
    kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(found.folder, trust_remote_code=False))]

    class ImagesAndText(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

    processor = ImagesAndText.from_pretrained(found.folder, trust_remote_code=False)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    return processor


def _split(argument: str) -> tuple[str, Path | None]:
    """Model and adapter folder; the name of an existing folder may contain a plus."""
    folder = Path(argument)
    if not folder.is_dir():
        name, _, adapter = argument.partition("+")
        return name, Path(adapter) if adapter else None
    if (folder / "config.json").is_file() or not (folder / ADAPTER_CONFIG).is_file():
        return argument, None
    base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"the adapter at {folder} does not name its model; write local:MODEL+{folder}")
    return base, folder


def _snapshot(name: str, adapter: Path | None) -> Path:
    """The folder itself, or the hub's snapshot in the local cache, downloaded if it is missing."""
    if Path(name).is_dir():
        return Path(name)
    try:
        with hub_access(name):
            return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        user = f" for the adapter at {adapter}" if adapter else ""
        raise FileNotFoundError(
            f"no model {name!r}{user}: it is not a folder, and the hub download failed ({first_line(error)})"
        ) from error


def _check_kind(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{name} needs config.json and *.safetensors; other formats are not read")
    kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"{name} is a {kind}, which is not an image-text-to-text model such as qwen3_vl or idefics3"
        )


def _digest(folder: Path) -> str:
    """Digest of the weights and their configuration."""
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    return digest(*(path.name.encode() + bytes.fromhex(file_digest(path, length=64)) for path in paths))


def _adapted(model: Any, adapter: Path, trainable: bool) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter at {adapter} does not fit the model: {first_line(error)}") from error
