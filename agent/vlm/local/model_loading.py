"""A vision-language model's weights, found by name or folder, with the processor and the adapter that go with them.

    NAME_OR_FOLDER                   the model
    NAME_OR_FOLDER+ADAPTER_FOLDER    and a LoRA adapter, as peft saves it
    ADAPTER_FOLDER                   the same; the adapter says which model it belongs to

The backend `local:` judges with what is found here, and `rl.critic_tuning` trains it: one way to load for both.

Weights are safetensors and nothing else, and no code of a repository is ever run. The revision follows the weights:
the commit of a hub's snapshot, or the sha256 of a folder's files. Left out: quantised weights.
"""

from __future__ import annotations

import hashlib
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

from agent.tracing.redaction import first_line

__all__ = ["FoundModel", "find_model", "load_processor", "load_weights"]

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # of a hub's repository
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class FoundModel:
    """A model's files on this machine."""

    base: str  # as the hub or the file system knows it, wherever the command is called from
    folder: Path
    name: str  # as it was asked for, the adapter's included: goes into traces
    revision: str  # of the weights, the adapter's included: goes into cache keys
    adapter: Path | None = None


def find_model(argument: str) -> FoundModel:
    """What an argument of the module's docstring names, fetched from the hub if it is not in the local cache.

    Raises:
        FileNotFoundError: neither a folder nor in reach of the hub, weights that are no safetensors, or no adapter.
        ValueError: no model is named, or one that is no image-text-to-text model.
    """
    if not argument:
        raise ValueError("local: needs a model, such as local:Qwen/Qwen3-VL-4B-Instruct or local:FOLDER")
    name, adapter = _parted(argument)
    folder = _snapshot(name, adapter)
    _check_kind(name, folder)
    own = Path(name).is_dir()
    base, revision = (str(Path(name).resolve()), _digest(folder)) if own else (name, folder.name)
    if adapter is None:
        return FoundModel(base, folder, name, revision)
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"no LoRA adapter at {adapter}: there is no {ADAPTER_WEIGHTS}")
    return FoundModel(base, folder, f"{name}+{adapter.name}", f"{revision}+{_digest(adapter)}", adapter)


def load_weights(found: FoundModel, trainable: bool = False) -> Any:
    """The model, in bfloat16 where there is a GPU and else in float32; a `trainable` one lies on one device, or on
    none yet, and its adapter can be trained further.

    Raises ValueError for a model that needs code of its own and for an adapter of another model.
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
    """The model's own processor without its part for video, which would ask for torchvision, and without the tiling
    by which Idefics3 magnifies a picture 16-fold, which panels this small do not need."""
    kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(found.folder, trust_remote_code=False))]

    class ImagesAndText(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

    processor = ImagesAndText.from_pretrained(found.folder, trust_remote_code=False)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    return processor


def _parted(argument: str) -> tuple[str, Path | None]:
    """Model and adapter; a folder's own name may hold a plus."""
    folder = Path(argument)
    if not folder.is_dir():
        name, _, adapter = argument.partition("+")
        return name, Path(adapter) if adapter else None
    if (folder / "config.json").is_file() or not (folder / ADAPTER_CONFIG).is_file():
        return argument, None
    base = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"the adapter at {folder} does not say of which model it is; write local:MODEL+{folder}"
        )
    return base, folder


def _snapshot(name: str, adapter: Path | None) -> Path:
    """The folder itself, or the hub's repository in the local cache, fetched if it is not there."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        whose = f", of which the adapter at {adapter} is" if adapter else ""
        raise FileNotFoundError(
            f"no model {name!r}{whose}: it is no folder, and the hub did not give it ({first_line(error)})"
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


def _adapted(model: Any, adapter: Path, trainable: bool) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter at {adapter} does not fit the model: {first_line(error)}") from error
