"""Backend settings as `--set field=value` gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

__all__ = ["UnknownSetting", "parse_settings", "read_settings", "require_from_zero", "require_positive"]

S = TypeVar("S")


class UnknownSetting(ValueError):
    """A backend has no setting of this name; the message lists those that it has."""


def parse_settings(pairs: Sequence[str]) -> dict[str, str | None]:
    """Each pair is field=value; the value `none` becomes None. Raises ValueError for any other form."""
    settings: dict[str, str | None] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not field.isidentifier() or not equals:
            raise ValueError(f"--set takes field=value, not {pair!r}")
        settings[field] = None if value == "none" else value
    return settings


def read_settings(kind: type[S], owner: str, given: Mapping[str, Any]) -> S:
    """An instance of the dataclass `kind`; strings are converted to the types of its fields.

    Raises ValueError, with the names of all fields, for an unknown field or a value of the wrong type.
    """
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(given) - set(known)):
        raise UnknownSetting(f"{owner}'s settings are {', '.join(known)}, not {', '.join(unknown)}")
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{owner}'s settings are {', '.join(known)}; {faults}") from error


def require_positive(settings: Any, *names: str) -> None:
    """Raises ValueError if one of these fields is set and not a finite number above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, not {value}")


def require_from_zero(settings: Any, *names: str) -> None:
    """Raises ValueError if one of these fields is set and not a finite number from 0 on."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number from 0 on, not {value}")
