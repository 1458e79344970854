"""What an earlier run left: the newest checkpoint that was written to its end, and the label of what is finished.

FOLDER/made_from.json      what the files beside it were made from: who writes them takes the label off first and
                           puts it on last, so that no label ever stands by the files of another run
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["label", "last_whole_checkpoint", "unlabel", "was_made_from"]

MADE_FROM = "made_from.json"
STATE = "trainer_state.json"  # transformers.Trainer writes it last


def last_whole_checkpoint(folder: Path, also: str | None = None) -> str | None:
    """The newest checkpoint of a `transformers.Trainer` under `folder`; None where there is none.

    also: a file that a callback adds in one step once the trainer has written its own.

    `transformers.trainer_utils.get_last_checkpoint` goes by names alone: after a kill in the middle of a save it names
    a folder that no run can be resumed from, and does so again at every further run.
    """
    steps = {}
    for path in folder.glob("checkpoint-*"):
        if (step := re.fullmatch(r"checkpoint-(\d+)", path.name)) and _is_whole(path, also):
            steps[int(step[1])] = path
    return str(steps[max(steps)]) if steps else None


def _is_whole(checkpoint: Path, also: str | None) -> bool:
    return isinstance(_read(checkpoint / STATE), dict) and (also is None or (checkpoint / also).exists())


def was_made_from(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether `folder` is finished, and what its label says of each of these is the same."""
    left = _read(folder / MADE_FROM)
    told = json.loads(json.dumps(origin))
    return isinstance(left, dict) and all(left.get(name) == value for name, value in told.items())


def unlabel(folder: Path) -> None:
    (folder / MADE_FROM).unlink(missing_ok=True)


def label(folder: Path, origin: Mapping[str, Any]) -> None:
    """In one step."""
    partial = folder / f"{MADE_FROM}.partial"
    partial.write_text(json.dumps(origin, indent=1))
    partial.replace(folder / MADE_FROM)


def _read(path: Path) -> Any:
    """None for what is not there or was cut off."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
