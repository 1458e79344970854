"""Reading TensorFlow Lite files: FlatBuffers made by hand."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hmr.assets.extract_blazepose import _densify, _merge_paddings, _same_padding, _Table, extract


def table(*fields: bytes) -> bytes:
    """A buffer with one table whose fields have four bytes each; an empty field is not stored."""
    offsets, body = [], b""
    for field in fields:
        offsets.append(4 + len(body) if field else 0)
        body += field
    entries = struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), 4 + len(body), *offsets)
    entries += b"\0" * (-len(entries) % 4)
    return entries + struct.pack("<i", len(entries)) + body


def test_fields_of_a_table_have_their_values_or_the_default():
    data = table(struct.pack("<i", 7), b"", struct.pack("<i", -3))
    read = _Table(data, len(data) - 12)
    assert [read.number(field, default=9) for field in range(4)] == [7, 9, -3, 9]


class _Level(_Table):
    """A dimension of a sparse tensor: dense, or compressed rows."""

    def __init__(self, size: int = 0, segments: tuple[int, ...] = (), indices: tuple[int, ...] = ()) -> None:
        self.size, self.segments, self.indices = size, segments, indices

    def number(self, field: int, code: str = "i") -> int:
        return {0: int(bool(self.segments)), 1: self.size, 2: 3, 4: 3}[field]  # 3: bytes

    def table(self, field: int) -> "_Level":
        return _Level(segments=self.segments if field == 3 else self.indices)

    def array(self, field: int, dtype: np.dtype) -> np.ndarray:
        return np.array(self.segments, dtype)


class _Sparsity(_Table):
    def __init__(self, order: tuple[int, ...], levels: list[_Level]) -> None:
        self.order, self.levels = order, levels

    def array(self, field: int, dtype: np.dtype) -> np.ndarray:
        return np.array(self.order if field == 0 else (), dtype)

    def tables(self, field: int) -> list[_Level]:
        return self.levels


def test_sparse_weights_become_dense():
    """Row 0 has 5 in column 2; row 1 has 6 in column 0 and 7 in column 1."""
    levels = [_Level(size=2), _Level(segments=(0, 1, 3), indices=(2, 0, 1))]
    values = np.array([5, 6, 7], np.float16)
    dense = _densify(values, [2, 3], _Sparsity((0, 1), levels))
    assert dense.tolist() == [[0, 0, 5], [6, 7, 0]]
    assert _densify(values, [3, 2], _Sparsity((1, 0), levels)).tolist() == [[0, 6], [0, 7], [5, 0]]


def test_same_padding_is_larger_at_the_end():
    """TensorFlow: 4 pixels, a kernel of 3 and a stride of 2 need one row, after the last; 7 pixels need one on each
    side."""
    assert _same_padding(4, 3, 2) == (0, 1)
    assert _same_padding(7, 3, 2) == (1, 1)
    assert _same_padding(8, 2, 2) == (0, 0)


def test_padding_of_channels_is_not_merged():
    def operations(padding: list[int]) -> list[dict]:
        return [
            {"kind": "pad", "inputs": [0], "output": 1, "padding": padding},
            {"kind": "conv", "inputs": [1], "output": 2, "padding": [0, 0, 0, 0]},
        ]

    (merged,) = _merge_paddings(operations([1, 1, 2, 2, 0, 0]))
    assert (merged["padding"], merged["inputs"]) == ([1, 1, 2, 2], [0])
    assert len(_merge_paddings(operations([0, 0, 0, 0, 0, 4]))) == 2


def test_a_changed_file_is_refused(tmp_path: Path):
    archive = tmp_path / "mediapipe.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("mediapipe/modules/pose_detection/pose_detection.tflite", b"other")
    with pytest.raises(ValueError, match="SHA-256"):
        extract("full", archive, tmp_path / "out")
