"""Reads YAML files whose fields are known in advance, such as the recipes under `configs/`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.storage.files import PathLike

__all__ = ["Limits", "check_limits", "checked_fields", "fields_of", "parse_yaml", "read_fields", "shown"]

Limits = Mapping[str, tuple[int | float, int | float]]  # the least and the largest value of a field
MAX_BYTES = 1_000_000
MAX_SHOWN = 200


def read_fields(path: PathLike, allowed: Collection[str], allowed_text: str | None = None) -> dict[str, Any]:
    """The mapping in the file; empty for an empty file.

    allowed_text: describes the allowed fields in the error message, if listing them would be too long. Raises
    FileNotFoundError, and ValueError if the file is not YAML, is not a mapping, or has an unknown field.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a file of fields has at most {MAX_BYTES:,}")
    values = parse_yaml(Path(path).read_bytes(), str(path))
    if not isinstance(values, dict | None):
        raise ValueError(f"{path} must hold a mapping of fields, not a {type(values).__name__}")
    _refuse_unknown(str(path), values or {}, allowed, allowed_text)
    return values or {}


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The value in a YAML text. Raises ValueError, which begins with `where`, for anything else, and for aliases: a few
    lines of them unfold to gigabytes when a value is printed."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"{where} is not YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has an alias, *{self.peek_event().anchor}, which is not allowed")
        return super().compose_node(parent, index)


def checked_fields(
    section: str, values: Any, kinds: Mapping[str, Any], allowed_text: str | None = None
) -> dict[str, Any]:
    """Checks a mapping of fields against their types, and converts integers to floats where the type is float.

    kinds: the type of every allowed field; a type that YAML has no value for accepts any value. `allowed_text` as in
    `read_fields`. Raises ValueError, whose message starts with `section`.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} must hold a mapping of fields, not {shown(values)}")
    _refuse_unknown(section, values, kinds, allowed_text)
    for name, value in values.items():
        if not _fits(value, kind := kinds[name]):
            wanted = kind.__name__ if isinstance(kind, type) else str(kind)
            hint = "; YAML reads 5e-4 as text: write 5.0e-4" if _has_exponent(value) else ""
            raise ValueError(f"{section}: {name} takes {wanted}, not {shown(value)}{hint}")
    return {name: float(value) if kinds[name] is float else value for name, value in values.items()}


def fields_of(signature: Any, exclude: Collection[str] = ()) -> dict[str, Any]:
    """The annotated names of a class or a function but those of `exclude`, with their types, as `checked_fields` takes
    them."""
    return {name: kind for name, kind in typing.get_type_hints(signature).items() if name not in exclude}


def check_limits(fields: Mapping[str, Any], limits: Limits) -> None:
    """Raises ValueError for a number outside its limits, which include both ends, and for one that is not a number."""
    for name, (least, largest) in limits.items():
        if name in fields and not least <= fields[name] <= largest:
            raise ValueError(f"{name} must be from {least:g} to {largest:g}, not {shown(fields[name])}")


def shown(value: Any) -> str:
    """A value in an error message, of at most `MAX_SHOWN` characters. Python refuses to write whole numbers of more
    than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _refuse_unknown(
    where: str, values: Mapping[Any, Any], allowed: Collection[str], allowed_text: str | None
) -> None:
    if unknown := sorted(set(map(str, values)) - set(allowed)):
        known = allowed_text or ", ".join(sorted(allowed))
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; allowed are {known}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return is_number and (kind is int or isinstance(value, float) or abs(value) <= sys.float_info.max)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if (origin or kind) in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value if inner)
    if (origin or kind) in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _has_exponent(value: Any) -> bool:
    if not (isinstance(value, str) and "e" in value.lower()):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
