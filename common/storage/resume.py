"""Finds the checkpoint of a `transformers.Trainer` from which a killed run can go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["has_ended", "last_whole_checkpoint"]

STATE = "trainer_state.json"  # transformers.Trainer writes it last


def last_whole_checkpoint(folder: Path, also: str | None = None, *, unended: bool = False) -> str | None:
    """The newest complete checkpoint under `folder`, or None.

    also: a file that a callback adds after the trainer has written its own.
    unended: skip checkpoints written after the last step (`has_ended`). Resuming from one of these takes a step too
        many; resuming from an earlier one, or from the start, ends with the same weights.

    `transformers.trainer_utils.get_last_checkpoint` goes by folder names alone: after a kill during a save it returns a
    folder from which no run can be resumed.
    """
    steps = {}
    for path in folder.glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if step and _is_whole(path, also) and not (unended and has_ended(path)):
            steps[int(step[1])] = path
    return str(steps[max(steps)]) if steps else None


def _is_whole(checkpoint: Path, also: str | None) -> bool:
    return isinstance(_read(checkpoint / STATE), dict) and (also is None or (checkpoint / also).exists())


def has_ended(checkpoint: Path) -> bool:
    """Whether the checkpoint was written after the last step of its run."""
    state = _read(checkpoint / STATE)
    return state["global_step"] >= state["max_steps"]


def _read(path: Path) -> Any:
    """None if the file is missing or was cut off."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
