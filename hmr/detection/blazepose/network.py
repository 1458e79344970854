"""Runs the networks that `hmr.assets.extract_blazepose` wrote: a list of about ten kinds of operations, in torch.

Weights are stored as float16, as in the original files, and computed in float32. Tensors are channels-last in memory,
which is the order of the original files, so that reshapes need no copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.backends import mkldnn

from common.storage.fingerprint import weights_digest

__all__ = ["Network", "load_network"]

# Convolution and activation in one pass over memory, 20 % faster on a CPU: the operation that torch.compile uses. It is
# not documented, so a version of torch without it does without.
_FUSED_CONV = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if mkldnn.is_available() else None


class Network:
    """`network(images)` gives the outputs by name, channels last; `size` is the side of an image in pixels."""

    def __init__(
        self, graph: dict[str, Any], weights: dict[str, Tensor], device: torch.device | str = "cpu"
    ) -> None:
        self.size: int = graph["size"]
        self.device = torch.device(device)
        self._input, self._outputs = graph["input"], graph["outputs"]
        self._operations = graph["operations"]
        self._weights = {name: _prepare(tensor).to(self.device) for name, tensor in weights.items()}
        self._last_use = {number: step for step, op in enumerate(self._operations) for number in op["inputs"]}
        self._last_use |= {number: len(self._operations) for number in self._outputs.values()}

    def digest(self) -> str:
        return weights_digest(self._weights, after=[json.dumps(self._operations, sort_keys=True)])

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        values = {self._input: images.to(self.device, memory_format=torch.channels_last)}
        for step, operation in enumerate(self._operations):
            inputs = [values[number] for number in operation["inputs"]]
            values[operation["output"]] = self._run(operation, inputs)
            for number in operation["inputs"]:
                if self._last_use[number] == step:
                    values.pop(number, None)
        return {name: _channels_last(values[number]) for name, number in self._outputs.items()}

    def _run(self, operation: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        if operation["kind"] == "conv":
            name = operation["output"]
            weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
            return _conv(inputs[0], weight, bias, operation)
        return _activate(_KINDS[operation["kind"]](inputs, operation), operation.get("activation"))


def _prepare(tensor: Tensor) -> Tensor:
    tensor = tensor.float()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _channels_last(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


def _activate(value: Tensor, activation: str | None) -> Tensor:
    if activation == "relu6":
        return value.clamp_(0.0, 6.0)
    return value.relu_() if activation == "relu" else value


def _conv(x: Tensor, weight: Tensor, bias: Tensor, operation: dict[str, Any]) -> Tensor:
    left, right, top, bottom = operation["padding"]
    padding = (top, left)
    if (left, top) != (right, bottom):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    stride, groups, activation = operation["stride"], operation["groups"], operation["activation"]
    if activation == "relu6" and _FUSED_CONV is not None and x.device.type == "cpu":
        return _FUSED_CONV(x, weight, bias, padding, stride, (1, 1), groups, "hardtanh", [0.0, 6.0], "")
    return _activate(F.conv2d(x, weight, bias, stride, padding, groups=groups), activation)


def _max_pool(inputs: list[Tensor], operation: dict[str, Any]) -> Tensor:
    padded = F.pad(inputs[0], operation["padding"], value=-torch.inf)
    return F.max_pool2d(padded, operation["kernel"], operation["stride"])


def _depth_to_space(inputs: list[Tensor], operation: dict[str, Any]) -> Tensor:
    """TensorFlow's order of channels: (row, column, depth); torch's pixel_shuffle has (depth, row, column)."""
    block = operation["block"]
    batch, channels, height, width = inputs[0].shape
    cells = inputs[0].reshape(batch, block, block, channels // block**2, height, width)
    return cells.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)


def _reshape(inputs: list[Tensor], operation: dict[str, Any]) -> Tensor:
    return _channels_last(inputs[0]).reshape(len(inputs[0]), *operation["shape"])


_KINDS: dict[str, Callable[[list[Tensor], dict[str, Any]], Tensor]] = {
    "add": lambda inputs, operation: inputs[0] + inputs[1],
    "concatenate": lambda inputs, operation: torch.cat(inputs, dim=operation["axis"]),
    "depth_to_space": _depth_to_space,
    "max_pool": _max_pool,
    "pad": lambda inputs, operation: F.pad(inputs[0], operation["padding"]),
    "reshape": _reshape,
    "resize": lambda inputs, operation: F.interpolate(
        inputs[0], scale_factor=float(operation["factor"]), mode="bilinear"
    ),
    "sigmoid": lambda inputs, operation: inputs[0].sigmoid(),
}


def load_network(path: Path, device: torch.device | str = "cpu") -> Network:
    """Raises FileNotFoundError without the file."""
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return Network(json.loads(file.metadata()["graph"]), weights, device)
