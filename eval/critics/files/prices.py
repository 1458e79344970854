"""Reads a table of token prices: what the backends of a comparison cost in dollars.

    openai:gpt-4.1-mini@https://api.openai.com/v1: {input: 0.40, output: 1.60}
    local:Qwen/Qwen3-VL-2B-Instruct: {input: 0, output: 0}

Keys are specs as given to `--backend`, or names as in a trace; prices are dollars per million tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.types import QuestionCounts
from common.reading.yaml_fields import checked_fields

__all__ = ["Price", "read_prices"]

PER_TOKENS = 1e6
FIELDS = {"input": float, "output": float}


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def dollars(self, counts: QuestionCounts) -> float:
        return (counts.tokens_in * self.input + counts.tokens_out * self.output) / PER_TOKENS


def read_prices(path: Path) -> dict[str, Price]:
    """Raises FileNotFoundError, and ValueError with the backend and the field for anything but prices."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of prices")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(table, Mapping) or not table:
        raise ValueError(f"{path} must hold a mapping of backends to {{input: DOLLARS, output: DOLLARS}}")
    return {str(backend): _price(f"{path}, {backend}", fields) for backend, fields in table.items()}


def _price(where: str, fields: Any) -> Price:
    values = checked_fields(where, fields, FIELDS)
    if missing := sorted(set(FIELDS) - set(values)):
        raise ValueError(f"{where}: {', '.join(missing)} is missing; a price has input and output")
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{where}: {name} must be at least 0 dollars per million tokens, not {value}")
    return Price(**values)
