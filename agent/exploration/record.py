"""What a memory's `exploration.json` records: the inputs of the exploration that filled it, and its result.

The file stands beside the memory's database. Its entry `made_from` is a fingerprint: everything that shapes the result.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.storage.files import PathLike

__all__ = ["CRITIQUE", "DETECTOR", "EXPLORED", "READER", "explored_detector"]

EXPLORED = "exploration.json"
DETECTOR, READER, CRITIQUE = "detector", "reader", "critique"  # keys of a fingerprint


def explored_detector(memory: PathLike) -> str | None:
    """Name of the detector that a memory was explored with; None if it was not explored. Raises ValueError for a
    broken exploration.json."""
    path = Path(memory) / EXPLORED
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["made_from"][DETECTOR]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} does not record what the memory was explored from; explore it again"
        ) from None
