"""What an earlier run left: the newest checkpoint that was written to its end, and the label of what is finished.

FOLDER/made_from.json      what the files beside it were made from: who writes them takes the label off first and
                           puts it on last, so that no label ever stands by the files of another run; a folder in which
                           a run grows, checkpoint by checkpoint, is labelled before the first one instead (`claim_run`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "claim_run",
    "has_ended",
    "has_fingerprint",
    "last_whole_checkpoint",
    "remove_fingerprint",
    "write_fingerprint",
]

FINGERPRINT = "made_from.json"
STATE = "trainer_state.json"  # transformers.Trainer writes it last
TOLD = 3  # differences that a refusal names


def last_whole_checkpoint(folder: Path, also: str | None = None, *, unended: bool = False) -> str | None:
    """The newest checkpoint of a `transformers.Trainer` under `folder`; None where there is none.

    also: a file that a callback adds in one step once the trainer has written its own.
    unended: none that was written after the last step (`has_ended`): whoever goes on from an earlier one, or from
        nothing, ends with the same weights, and whoever goes on from that one does not.

    `transformers.trainer_utils.get_last_checkpoint` goes by names alone: after a kill in the middle of a save it names
    a folder that no run can be resumed from, and does so again at every further run.
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
    """Whether it was written after the last step of its run: a `transformers.Trainer` that went on from it would take
    one more."""
    state = _read(checkpoint / STATE)
    return state["global_step"] >= state["max_steps"]


def has_fingerprint(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether `folder` is finished, and what its label says of each of these is the same."""
    left = _read(folder / FINGERPRINT)
    told = json.loads(json.dumps(origin))
    return isinstance(left, dict) and all(left.get(name) == value for name, value in told.items())


def remove_fingerprint(folder: Path) -> None:
    (folder / FINGERPRINT).unlink(missing_ok=True)


def write_fingerprint(folder: Path, origin: Mapping[str, Any]) -> None:
    """In one step."""
    partial = folder / f"{FINGERPRINT}.partial"
    partial.write_text(json.dumps(origin, indent=1))
    partial.replace(folder / FINGERPRINT)


def claim_run(folder: Path, origin: Mapping[str, Any], leaves: Iterable[str]) -> None:
    """Label a folder before a run grows in it, or find that the run which grows there is the same.

    leaves: patterns of what a run leaves under `folder`; a label without any of it holds nobody up. Raises ValueError,
    with what differs, where another run has left some.
    """
    if has_fingerprint(folder, origin):
        return
    if any(path for pattern in leaves for path in folder.glob(pattern)):
        left, told = _read(folder / FINGERPRINT), json.loads(json.dumps(origin))
        why = "; ".join(_differences(left, told)) if isinstance(left, dict) else f"it left no {FINGERPRINT}"
        raise ValueError(f"{folder} holds another run ({why}); remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_fingerprint(folder, origin)


def _differences(left: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """What it was and is not, a few at most."""
    was, now = dict(_flat(left)), dict(_flat(told))
    names = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    lines = [f"{name} {json.dumps(was.get(name))}, not {json.dumps(now.get(name))}" for name in names[:TOLD]]
    return lines if len(names) <= TOLD else [*lines, f"{len(names) - TOLD} more"]


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _read(path: Path) -> Any:
    """None for what is not there or was cut off."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
