"""A YAML file of known fields, as every recipe under `configs/` is."""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["checked_fields", "read_fields"]


def read_fields(path: Path, allowed: Collection[str], told: str | None = None) -> dict[str, Any]:
    """The file's mapping; empty for an empty file.

    `told`: what to say of the allowed fields, where a list of them would be too long. Raises FileNotFoundError, and
    ValueError for what is no YAML, no mapping, or holds an unknown field.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict | None):
        raise ValueError(f"{path} must hold a mapping of fields, not a {type(values).__name__}")
    if unknown := sorted(set(map(str, values or {})) - set(allowed)):
        told = told or ", ".join(sorted(allowed))
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; allowed are {told}")
    return values or {}


def checked_fields(
    section: str, values: Any, kinds: Mapping[str, Any], told: str | None = None
) -> dict[str, Any]:
    """A mapping of names that there are and values of their types; whole numbers become floats where those are meant.

    kinds: the type of every allowed field; of one that no YAML value stands for, any value is let through. `told` as
    in `read_fields`. Raises ValueError, which begins with `section`.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} must hold a mapping of fields, not {values!r}")
    if unknown := sorted(set(map(str, values)) - set(kinds)):
        told = told or ", ".join(sorted(kinds))
        raise ValueError(f"{section}: unknown {', '.join(unknown)}; allowed are {told}")
    for name, value in values.items():
        if not _fits(value, kind := kinds[name]):
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            hint = "; YAML takes a number without a point for text: 5.0e-4" if _reads_as_number(value) else ""
            raise ValueError(f"{section}: {name} takes {wanted}, not {value!r}{hint}")
    return {name: float(value) if kinds[name] is float else value for name, value in values.items()}


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if (origin or kind) in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value if inner)
    if (origin or kind) in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _reads_as_number(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
