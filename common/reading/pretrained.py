"""Checkpoints of our models in folders: config.json and model.safetensors, as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors import SafetensorError
from transformers import PreTrainedModel

from common.finite import check_weights
from common.reading.foreign_files import reason_in_a_line
from common.storage.files import PathLike

__all__ = ["load_whole", "save_compact"]

Model = TypeVar("Model", bound=PreTrainedModel)


def save_compact(model: PreTrainedModel, folder: PathLike) -> None:
    """Save matrices and kernels in float16, which halves the size; vectors (norms, statistics) stay in float32."""
    state = {
        name: tensor.half() if tensor.ndim >= 2 and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)


def load_whole(kind: type[Model], folder: Path, noun: str) -> Model:
    """The model in a folder, in float32, from safetensors and a JSON config, never a pickle. `noun` is for messages.

    Raises FileNotFoundError if the folder holds none, and ValueError if it cannot be read, lacks a tensor or
    has a number that is not finite.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no {noun}: a checkpoint has config.json and model.safetensors"
        )
    try:
        loaded: Any = kind.from_pretrained(
            folder, dtype="float32", local_files_only=True, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(
            f"the {noun} in {folder} cannot be read: its model.safetensors is damaged ({reason_in_a_line(error)}); "
            "copy it again"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the {noun} in {folder} cannot be read: {error}") from error
    # transformers' annotation omits the second value
    model, info = cast(tuple[Model, dict[str, set[str]]], loaded)
    if info["missing_keys"]:  # transformers would leave these tensors uninitialised
        missing = ", ".join(sorted(info["missing_keys"]))
        raise ValueError(f"the {noun} in {folder} lacks {missing}: another version wrote it")
    check_weights(model.state_dict().items(), f"the {noun} in {folder}")
    return model
