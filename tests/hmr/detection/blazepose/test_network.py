"""The port gives what the original runtime gives.

`tests/data/blazepose_litert.json` has outputs of the original files in ai-edge-litert 2.3.0 for `picture`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.assets.extract_blazepose import BLAZEPOSE_FOLDER
from hmr.detection.blazepose.network import Network, load_network

GOLDEN = json.loads((Path(__file__).parents[3] / "data/blazepose_litert.json").read_text())


def picture(size: int) -> np.ndarray:
    blocks = np.random.default_rng(0).random((size // 32, size // 32, 3), dtype=np.float32)
    return blocks.repeat(32, axis=0).repeat(32, axis=1)


@pytest.mark.parametrize("name", list(GOLDEN))
def test_outputs_are_those_of_the_original_runtime(name: str):
    network = load_network(BLAZEPOSE_FOLDER / f"{name}.safetensors")
    outputs = network(torch.from_numpy(picture(network.size)).permute(2, 0, 1)[None])
    for key, golden in GOLDEN[name].items():
        assert list(outputs[key].shape) == golden["shape"]
        values = outputs[key].flatten()[golden["indices"]]
        torch.testing.assert_close(values, torch.tensor(golden["values"]), rtol=2e-3, atol=2e-3)


def test_a_batch_gives_what_its_images_give():
    network = load_network(BLAZEPOSE_FOLDER / "landmarks_full.safetensors")
    images = torch.from_numpy(np.stack([picture(256), picture(256)[::-1]])).permute(0, 3, 1, 2)
    together, alone = network(images), network(images[1:])
    for name, values in together.items():
        torch.testing.assert_close(values[1:], alone[name], rtol=1e-3, atol=5e-3)


def run(operation: dict, x: torch.Tensor, **weights: torch.Tensor) -> torch.Tensor:
    """A network of one operation."""
    graph = {
        "input": 0,
        "size": 4,
        "outputs": {"y": 9},
        "operations": [operation | {"inputs": [0], "output": 9}],
    }
    return Network(graph, {f"9.{name}": value for name, value in weights.items()})(x)["y"]


def test_depth_to_space_has_tensorflows_order():
    """Channels (row, column, depth): channel 2 r + c goes to pixel (r, c)."""
    x = torch.arange(4.0).reshape(1, 4, 1, 1)
    y = run({"kind": "depth_to_space", "block": 2}, x)
    assert y[0, :, :, 0].tolist() == [[0, 1], [2, 3]]


def test_reshape_is_channels_last():
    x = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 is 0..3, channel 1 is 4..7
    y = run({"kind": "reshape", "shape": [-1, 1]}, x)
    assert y[0, :, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_padding_of_a_convolution_may_differ_between_sides():
    """One row and column of zeros at the bottom right: the sum over 2 x 2 pixels of ones is 4, 2, 2 and 1."""
    operation = {
        "kind": "conv",
        "stride": [1, 1],
        "padding": [0, 1, 0, 1],
        "groups": 1,
        "activation": "relu6",
    }
    y = run(operation, torch.ones(1, 1, 2, 2), weight=torch.ones(1, 1, 2, 2), bias=torch.zeros(1))
    assert y[0, :, :, 0].tolist() == [[4, 2], [2, 1]]
    y = run(operation, torch.full((1, 1, 2, 2), 2.0), weight=torch.ones(1, 1, 2, 2), bias=torch.ones(1))
    assert y[0, :, :, 0].tolist() == [[6, 5], [5, 3]]
