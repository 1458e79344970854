"""Where fitted error models are kept: one with each explored memory, and shipped ones for memories without.

MEMORY/error_model.json             written by `meshcritic explore`
agent/expected_error/DETECTOR.json  made by `python -m benchmarks.critic.error_model --write`
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from agent.expected_error.error_model import ErrorModel
from common.storage.files import PathLike

__all__ = ["ERROR_MODEL_FILE", "error_model_for", "fitted_groups"]

ERROR_MODEL_FILE = "error_model.json"


def error_model_for(detector: str, memory: PathLike | None) -> ErrorModel | None:
    """The model of the memory, else the shipped one; None if there is none for this detector.

    Raises ValueError for a broken file.
    """
    path = Path(memory or "") / ERROR_MODEL_FILE
    shipped = {item.name: item for item in files("agent").joinpath("expected_error").iterdir()}
    if memory is not None and path.is_file():
        model = _read(path.read_text(encoding="utf-8"), path)
    elif found := shipped.get(f"{detector}.json"):
        model = _read(found.read_text(encoding="utf-8"), Path(str(found)))
    else:
        return None
    return model if model.detector == detector else None


def fitted_groups(memory: PathLike) -> int:
    """The number of groups that the model of a memory was fitted on; 0 without one. Raises ValueError for a broken
    file."""
    path = Path(memory) / ERROR_MODEL_FILE
    return _read(path.read_text(encoding="utf-8"), path).groups if path.is_file() else 0


def _read(text: str, path: Path) -> ErrorModel:
    try:
        return ErrorModel.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no error model ({error!r}); remove it or explore the memory again"
        ) from None
