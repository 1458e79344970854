"""What `--set field=value` says, as a backend's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

__all__ = ["above_zero", "read_settings"]

S = TypeVar("S")


def read_settings(kind: type[S], owner: str, given: Mapping[str, Any]) -> S:
    """An instance of the dataclass `kind`; strings become the numbers they spell.

    Raises ValueError for a field that it does not have or a value that is none, naming the fields there are.
    """
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{owner}'s settings are {', '.join(known)}, not {', '.join(unknown)}")
    try:
        return TypeAdapter(kind).validate_python(dict(given))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{owner}'s settings are {', '.join(known)}; {faults}") from error


def above_zero(settings: Any, *names: str) -> None:
    """Raises ValueError for a field that is set and not above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, not {value}")
