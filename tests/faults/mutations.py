"""Strategies of `hypothesis` that change valid content: bytes at any place, and values at any place of a structure."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

__all__ = ["ODD_ARRAYS", "changed_arrays", "changed_bytes", "changed_json", "changed_value"]

MAX_CHANGES = 4
EDGES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\n",
    b'"',
    b"{",
    b"[",
    b"]",
    b"}",
    b"-",
    b"e9",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, math.nan, math.inf, -math.inf, 2**31, 2**63, -(2**63) - 1,
    10**400, "", "a", "0", "nan", "\x00", "\ud800", "\x1b[2J", "../../etc/passwd", "x" * 5000, [], [[]], [None], {},
    {"": None}, [1, "a", []], {"a": {"b": {"c": []}}}, [[0.0] * 3] * 3, [0.0] * 1000,
)  # fmt: skip
ODD_ARRAYS: tuple[Any, ...] = (
    np.zeros(()), np.zeros(0), np.zeros((0, 3)), np.zeros((1, 0, 3)), np.full((2, 4, 3), np.nan),
    np.full((4, 3), np.inf), np.zeros((2, 4, 3), complex), np.array("text"), np.array([b"bytes"]),
    np.ones((4, 3), bool), np.zeros((4, 3), np.uint8), np.full((4, 10), 1e300), np.full(2, -1), np.full((2,), 2**62),
    np.zeros((3, 1, 1, 1, 1)), np.zeros((2, 2), "M8[s]"), np.zeros(3, [("a", "f4")]), np.zeros((4, 3), np.float16),
    np.asfortranarray(np.ones((4, 3))),
)  # fmt: skip


@st.composite
def changed_bytes(draw: Any, contents: Sequence[bytes]) -> bytes:
    """One of the contents with bytes flipped, replaced, removed, inserted, repeated or swapped, or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, MAX_CHANGES))):
        size = len(content)
        at, length = draw(st.integers(0, max(size - 1, 0))), draw(st.integers(1, 16))
        change = draw(st.integers(0, 6))
        if change == 0 and size:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == 1:
            content[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif change == 2:
            del content[at:]
        elif change == 3:
            del content[at : at + length]
        elif change == 4:
            content[at:at] = draw(st.sampled_from(EDGES))
        elif change == 5:
            content[at:at] = content[at : at + length] * draw(st.integers(1, 4))
        else:
            other = draw(st.integers(0, max(size - 1, 0)))
            content[at : at + length], content[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
    return bytes(content)


@st.composite
def changed_value(draw: Any, values: Sequence[Any]) -> Any:
    """One of the values (of JSON's types) with some of its parts replaced, removed, repeated or renamed."""
    root = [copy.deepcopy(draw(st.sampled_from(values)))]
    for _ in range(draw(st.integers(1, MAX_CHANGES))):
        place, key = root, 0
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            key = (
                draw(st.sampled_from(sorted(place, key=str)))
                if isinstance(place, dict)
                else draw(st.integers(0, len(place) - 1))
            )
        change = draw(st.integers(0, 4))
        if change <= 1 or place is root:
            place[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif change == 2:
            del place[key]
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        else:
            place[draw(st.sampled_from(("", "x", "id", "people", str(key).upper())))] = place.pop(key)
    return root[0]


def changed_json(contents: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Changed files of JSON: their bytes or their values."""
    values = changed_value([json.loads(content) for content in contents])
    return changed_bytes(contents) | values.map(lambda value: json.dumps(value).encode())


@st.composite
def changed_arrays(draw: Any, contents: Sequence[dict[str, Any]]) -> bytes:
    """An npz of one of the groups of arrays, of which some are replaced, removed, reshaped or cast."""
    arrays = dict(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, MAX_CHANGES))):
        name = draw(st.sampled_from(sorted(arrays))) if arrays else "x"
        change = draw(st.integers(0, 4))
        if change == 0:
            arrays.pop(name, None)
        elif change == 1 and name in arrays:
            arrays[name] = np.asarray(arrays[name])[..., None]
        elif change == 2 and name in arrays and np.ndim(arrays[name]):
            arrays[name] = arrays[name][: draw(st.integers(0, 3))]
        else:
            arrays[name] = draw(st.sampled_from(ODD_ARRAYS))
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
