"""A YAML file of known fields, as every recipe under `configs/` is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

__all__ = ["read_fields"]


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
