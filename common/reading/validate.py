"""Checks the structure of files from elsewhere. Errors name the file, the key, and what was found.

Every reader of external files uses these functions, so that all errors have the same form. The meaning of values is
checked by each reader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from common.storage.files import PathLike

__all__ = [
    "IMAGE_MISSING",
    "NOT_FINITE",
    "FlawedRecord",
    "existing_image",
    "fits_float32",
    "floats",
    "members",
    "numbers",
    "parse_json",
    "read_json",
    "records",
    "require",
    "rows",
]

# reasons of records that cannot be used
NOT_FINITE = "values that are not finite"
IMAGE_MISSING = "image missing"
IMAGE_OUTSIDE = (
    "the image is a link out of the folder, which is not followed: move or mount the images into it"
)
SHOWN = 12  # names listed before "and N more"

Kinds = Mapping[str, type | UnionType]


class FlawedRecord(ValueError):
    """The values of one record cannot be used, although its layout is correct. `reason` has no values, so that records
    with the same flaw can be counted; readers of many records drop the record and continue. `missing_image`: the image
    that the record names and that is not there."""

    def __init__(self, message: str, reason: str, missing_image: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.missing_image = reason, missing_image


def require(found: Any, names: Iterable[str], where: str) -> None:
    """Raises ValueError, with the missing names and those that `found` has, if it lacks some of `names`."""
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise ValueError(
            f"{where} is of type {type(found).__name__}, not an object that holds {', '.join(names)}"
        )
    held = sorted(map(str, found))
    missing = [name for name in names if name not in held]
    if not missing:
        return
    shown = ", ".join(held[:SHOWN]) or "nothing"
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    raise ValueError(f"{where} lacks {', '.join(missing)}; it holds {shown}{more}")


def members(value: Any, kinds: Kinds, where: str) -> dict[str, Any]:
    """The value as a dictionary that has these names, each of its type (`object` if a later check covers it).

    Raises ValueError if it is not a dictionary, lacks a name, or has a member of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} is of type {type(value).__name__}, not an object that holds {', '.join(kinds)}"
        )
    require(value, kinds, where)
    for name, kind in kinds.items():
        if not isinstance(value[name], kind):
            wanted = str(kind).replace("|", "or") if isinstance(kind, UnionType) else kind.__name__
            raise ValueError(f"{name} of {where} is of type {type(value[name]).__name__}, not {wanted}")
    return value


def records(
    content: Mapping[str, Any], key: str, one: str, kinds: Kinds, path: PathLike
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the list under `key`, checked one by one, each with its place ("image 0 of FILE")."""
    if not isinstance(content[key], list):
        raise ValueError(f"{key} of {path} is of type {type(content[key]).__name__}, not a list")
    for index, value in enumerate(content[key]):
        where = f"{one} {index} of {path}"
        yield where, members(value, kinds, where)


def floats(value: Any, what: str) -> Float[np.ndarray, "..."]:
    """The value as a float64 array of any shape. Raises ValueError, naming `what`, if it cannot be converted."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} is not an array of numbers: {error}") from error


def fits_float32(array: Shaped[np.ndarray, "..."]) -> bool:
    """Whether all numbers are finite, and stay so in float32, in which bodies are computed."""
    return bool((np.abs(array) <= np.finfo(np.float32).max).all())  # false for NaN


def numbers(value: Any, shape: tuple[int, ...], what: str) -> Float[np.ndarray, "..."]:
    """The value as a finite float64 array of this shape. A flat list of as many numbers is accepted too, and axes of
    length 1 are ignored. Raises ValueError, naming `what` and its shape, for anything else (FlawedRecord for values
    that are not finite)."""
    array = floats(value, what)
    if np.asarray(value).dtype.kind in "SU":  # float64 would take "1"
        raise ValueError(f"{what} holds texts, not numbers")
    squeezed = tuple(size for size in shape if size != 1)
    if array.squeeze().shape not in (squeezed, (math.prod(shape),)):
        raise ValueError(f"{what} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise FlawedRecord(f"{what} has values that are not finite", NOT_FINITE)
    return array.reshape(shape)


def rows(value: Any, count: int, shape: tuple[int | None, ...], what: str) -> Shaped[np.ndarray, "count ..."]:
    """The value as an array of `count` rows of this shape; None means any size. Rows of shape () may be strings."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} is not an array: {error}") from error
    fits = array.ndim == len(shape) + 1 and len(array) == count
    if not fits or any(want not in (None, has) for want, has in zip(shape, array.shape[1:], strict=True)):
        wanted = ", ".join(["any" if size is None else str(size) for size in (count, *shape)])
        raise ValueError(f"{what} has shape {array.shape}, not ({wanted})")
    if array.dtype.kind not in ("biufSU" if not shape else "biuf"):
        raise ValueError(f"{what} holds {array.dtype}, not numbers")
    return array


def read_json(path: PathLike, names: Iterable[str]) -> dict[str, Any]:
    """The object of a JSON file. Raises FileNotFoundError, and ValueError if it is not an object that has `names`."""
    content = parse_json(path, "annotation")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object")
    require(content, names, str(path))
    return content


def parse_json(path: PathLike, kind: str) -> Any:
    """The content of a JSON file; `kind` says what file is missing. Raises FileNotFoundError and ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {kind} file at {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def existing_image(folder: PathLike, image: str) -> Path:
    """The file of an image that a record names. Raises FlawedRecord if there is none in the folder.

    Neither a name nor a link must lead out of the folder, whose images are copied: both are untrusted. The folder
    itself may be a link.
    """
    path = Path(folder) / image
    if Path(image).is_absolute() or ".." in Path(image).parts:
        raise FlawedRecord(
            f"the annotations name an image outside of {folder}: {image!r}", IMAGE_MISSING, image
        )
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise FlawedRecord(
            f"the image {image!r} is a link out of {folder}, which is not followed", IMAGE_OUTSIDE
        )
    if not path.is_file():
        message = f"there is no image at {path}, which the annotations name"
        raise FlawedRecord(message, IMAGE_MISSING, image)
    return path
