"""Refusals for files of another layout: what is missing, where, and what was found instead.

Every reader of other people's files checks with these few functions, so that a wrong file always gets the same
sentence. Left out: values, which are each reader's own business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image, UnidentifiedImageError

__all__ = ["image_size", "numbers", "read_json", "require", "rows"]

SHOWN = 12  # names of what was found, before "and N more"


def require(found: Iterable[object], names: Iterable[str], where: str) -> None:
    """Raises ValueError that names what of `names` is missing and what `where` holds instead."""
    held = sorted(map(str, found))
    missing = [name for name in names if name not in held]
    if not missing:
        return
    shown = ", ".join(held[:SHOWN]) or "nothing"
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    raise ValueError(f"{where} lacks {', '.join(missing)}; it holds {shown}{more}")


def numbers(value: Any, shape: tuple[int, ...], what: str) -> Float[np.ndarray, "..."]:
    """The value as float64 of this shape; a flat list of as many numbers is taken too, and axes of length 1
    do not count. Raises ValueError, naming `what` and the shape it has, for anything else."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is not an array of {shape} numbers: {error}") from error
    squeezed = tuple(size for size in shape if size != 1)
    if array.squeeze().shape not in (squeezed, (math.prod(shape),)):
        raise ValueError(f"{what} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} has values that are not finite")
    return array.reshape(shape)


def rows(value: Any, count: int, shape: tuple[int | None, ...], what: str) -> Shaped[np.ndarray, "count ..."]:
    """The value as an array of `count` rows of this shape, None for any size."""
    array = np.asarray(value)
    fits = array.ndim == len(shape) + 1 and len(array) == count
    if not fits or any(want not in (None, has) for want, has in zip(shape, array.shape[1:], strict=True)):
        wanted = ", ".join(["any" if size is None else str(size) for size in (count, *shape)])
        raise ValueError(f"{what} has shape {array.shape}, not ({wanted})")
    return array


def read_json(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """A JSON file's object, which holds all of `names`. Raises FileNotFoundError, or ValueError with what is wrong."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation file at {path}")
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object")
    require(content, names, str(path))
    return content


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the pixels as stored, from the file's header; annotations know nothing of EXIF's turns."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no image at {path}, where the annotations want one")
    try:
        with Image.open(path) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that can be read") from error
