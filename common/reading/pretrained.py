"""Checkpoints of our models in folders: config.json and model.safetensors, as transformers writes them.

They are read without transformers: a checkpoint is untrusted, and `from_pretrained` also takes pickles, weights
from outside the folder, adapters, and settings of quantization and attention that load other code.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from common.finite import check_weights
from common.reading.untrusted_files import reason_in_a_line
from common.reading.validate import parse_json
from common.reading.yaml_fields import Limits, check_limits, checked_fields, shown
from common.storage.files import PathLike

__all__ = ["load_whole", "save_compact"]

Model = TypeVar("Model", bound=PreTrainedModel)
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FLOATS, INTEGERS = ("F16", "BF16", "F32", "F64"), ("I8", "I16", "I32", "I64", "U8", "BOOL")  # of safetensors


def save_compact(model: PreTrainedModel, folder: PathLike) -> None:
    """Save matrices and kernels in float16, which halves the size; vectors (norms, statistics) stay in float32."""
    state = {
        name: tensor.half() if tensor.ndim >= 2 and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)


def load_whole(kind: type[Model], folder: Path, noun: str, limits: Limits) -> Model:
    """The model in a folder, in float32, from safetensors and a JSON config, never a pickle. `noun` is for messages.

    limits: of numbers in the config. Fields of the config that the model's own config does not have are ignored.

    Raises FileNotFoundError if the folder holds none, and ValueError if it cannot be read, has other tensors than its
    config asks for, or a number that is not finite. Nothing is allocated before the sizes of all tensors are known to
    be those of the file.
    """
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} holds no {noun}: a checkpoint has {CONFIG} and {WEIGHTS}")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"the {noun} in {folder} has no {WEIGHTS}; other formats of weights are not read")
    config = _read_config(kind, folder / CONFIG, limits)
    asked = _asked_tensors(kind, config, folder / CONFIG)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            _check_tensors(asked, file, f"the {noun} in {folder}")
        state = {name: _as_float32(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise ValueError(
            f"the {noun} in {folder} cannot be read: its {WEIGHTS} is damaged ({reason_in_a_line(error)}); copy it "
            "again"
        ) from error
    except OSError as error:
        raise ValueError(f"the {noun} in {folder} cannot be read: {reason_in_a_line(error)}") from error
    check_weights(state.items(), f"the {noun} in {folder}")
    model = kind(config)
    model.load_state_dict(state)
    return model


def _read_config(kind: type[PreTrainedModel], path: Path, limits: Limits) -> Any:
    found = parse_json(path, "config")
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, not an object")
    make: Any = kind.config_class
    if found.get("model_type") not in (None, make.model_type):
        raise ValueError(
            f"{path} is the config of another model: its model_type is {shown(found['model_type'])}, not "
            f"{make.model_type}"
        )
    hints = typing.get_type_hints(make.__init__)
    kinds = {name: hints[name] for name in inspect.signature(make.__init__).parameters if name in hints}
    kinds.pop("kwargs")
    fields = checked_fields(str(path), {name: found[name] for name in kinds if name in found}, kinds)
    try:
        check_limits(fields, limits)
        return make(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _asked_tensors(kind: type[PreTrainedModel], config: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a model of this config, without data."""
    try:
        with torch.device("meta"):
            return kind(config).state_dict()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{path}: no model can be made from it: {reason_in_a_line(error)}") from error


def _check_tensors(asked: Mapping[str, Tensor], file: Any, where: str) -> None:
    held = set(file.keys())
    if missing := sorted(set(asked) - held):
        raise ValueError(f"{where} lacks {_few(missing)}: another version wrote it")
    if unknown := sorted(held - set(asked)):
        raise ValueError(f"{where} has tensors that its {CONFIG} does not ask for: {_few(unknown)}")
    for name, tensor in asked.items():
        part = file.get_slice(name)
        if (found := tuple(part.get_shape())) != tuple(tensor.shape):
            raise ValueError(
                f"{where}: {name} has shape {found}, but its {CONFIG} asks for {tuple(tensor.shape)}"
            )
        if part.get_dtype() not in (FLOATS if tensor.is_floating_point() else INTEGERS):
            raise ValueError(f"{where}: {name} holds numbers of type {part.get_dtype()}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
