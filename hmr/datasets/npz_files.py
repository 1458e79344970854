"""What the npz annotation files of several data sets share: a split is a file's name, a box a centre and a side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hmr.datasets.annotation import box_of_xyxy
from hmr.types import Box

__all__ = ["center_box", "split_file", "texts"]


def split_file(folder: Path, split: str) -> Path:
    """FOLDER/SPLIT.npz. Raises FileNotFoundError that names the npz files which are there."""
    path = folder / f"{split}.npz"
    if path.is_file():
        return path
    there = ", ".join(sorted(file.stem for file in folder.glob("*.npz"))) or "none"
    raise FileNotFoundError(
        f"there is no {path.name} in {folder}; its npz files, any of them a split: {there}"
    )


def texts(values: Any) -> list[str]:
    """Names that numpy kept as text or as bytes, one or many."""
    found = values if isinstance(values, list) else np.ravel(values)
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in found]


def center_box(center_px: Shaped[np.ndarray, "2"], side_px: Shaped[np.ndarray, " sides"], what: str) -> Box:
    """A box from its centre and its one side, or its width and height."""
    half = np.broadcast_to(side_px / 2, (2,))
    return box_of_xyxy((*(center_px - half), *(center_px + half)), what)
