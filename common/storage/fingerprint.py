"""Fingerprints: short content hashes, and the file in a run folder that records what the run was made from.

FOLDER/made_from.json      the inputs of the files beside it. A program that writes those files removes the record first
                           and writes it last, so that it never describes the files of another run. A folder that a run
                           fills over time, checkpoint by checkpoint, gets its record at the start (`claim_run`).

All hashes are SHA-256, cut to a number of hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.storage.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "claim_run",
    "differences",
    "digest",
    "file_digest",
    "has_fingerprint",
    "json_digest",
    "read_fingerprint",
    "remove_fingerprint",
    "stream_digest",
    "weights_digest",
    "write_fingerprint",
]

FINGERPRINT = "made_from.json"
MAX_DIFFERENCES = 3  # named in a refusal


def digest(*parts: bytes | str, length: int = 16) -> str:
    """Of the parts, one after the other; text in UTF-8."""
    return stream_digest(parts, length)


def stream_digest(parts: Iterable[bytes | str], length: int = 16) -> str:
    """`digest` of parts that are not held in memory together."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
    return state.hexdigest()[:length]


def json_digest(value: object, length: int = 16) -> str:
    """Of a value that JSON can hold; the order of keys does not matter."""
    return digest(json.dumps(value, sort_keys=True), length=length)


def file_digest(path: Path, length: int = 16) -> str:
    """Of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:length]


def weights_digest(
    weights: Mapping[str, Tensor], *, before: str = "", after: Iterable[str] = (), length: int = 16
) -> str:
    """Of a state dict: names and bytes of the tensors, sorted by name, between other text."""
    import torch

    state = hashlib.sha256(before.encode())
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(name.encode())
        state.update(flat.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    for text in after:
        state.update(text.encode())
    return state.hexdigest()[:length]


def has_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Whether `folder` has a record in which every given entry has the given value."""
    recorded, wanted = read_fingerprint(folder / FINGERPRINT), json.loads(json.dumps(fingerprint))
    return recorded is not None and all(recorded.get(name) == value for name, value in wanted.items())


def remove_fingerprint(folder: Path) -> None:
    (folder / FINGERPRINT).unlink(missing_ok=True)


def write_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    write_text(folder / FINGERPRINT, json.dumps(fingerprint, indent=1))


def claim_run(folder: Path, fingerprint: Mapping[str, Any], outputs: Iterable[str]) -> None:
    """Record a run in `folder` before it writes anything there, or find that the run recorded there is the same.

    outputs: glob patterns of what a run writes under `folder`. A record without any of them is replaced. Raises
    ValueError, with the differences, if another run has written some.
    """
    if has_fingerprint(folder, fingerprint):
        return
    if any(path for pattern in outputs for path in folder.glob(pattern)):
        recorded = read_fingerprint(folder / FINGERPRINT)
        why = f"it has no {FINGERPRINT}" if recorded is None else differences(recorded, fingerprint)
        raise ValueError(f"{folder} holds another run ({why}); remove it or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_fingerprint(folder, fingerprint)


def differences(recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """The first entries in which a record is not the fingerprint, and the number of the others."""
    was, now = dict(_flat(recorded)), dict(_flat(json.loads(json.dumps(fingerprint))))
    names = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    lines = [
        f"{name} {json.dumps(was.get(name))}, not {json.dumps(now.get(name))}"
        for name in names[:MAX_DIFFERENCES]
    ]
    others = len(names) - MAX_DIFFERENCES
    return "; ".join([*lines, f"{others} more"] if others > 0 else lines)


def _flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def read_fingerprint(path: Path) -> dict[str, Any] | None:
    """None if the file is missing or holds no JSON object."""
    try:
        recorded = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) else None
