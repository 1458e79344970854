"""Where fitted error models are kept: one with each explored memory, and shipped ones for memories without.

MEMORY/error_model.json           written by `meshcritic explore`
agent/verdict/DETECTOR.json       made by `python -m benchmarks.error_model --write`
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from agent.verdict.error_model import ErrorModel
from common.files import PathLike

__all__ = ["ERROR_MODEL_FILE", "error_model_for"]

ERROR_MODEL_FILE = "error_model.json"


def error_model_for(detector: str, memory: PathLike | None) -> ErrorModel | None:
    """The model of the memory, else the shipped one; None if there is none for this detector.

    Raises ValueError for a broken file.
    """
    path = Path(memory or "") / ERROR_MODEL_FILE
    shipped = {item.name: item for item in files("agent").joinpath("verdict").iterdir()}
    if memory is not None and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif found := shipped.get(f"{detector}.json"):
        text, path = found.read_text(encoding="utf-8"), Path(str(found))
    else:
        return None
    try:
        model = ErrorModel.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no error model ({error!r}); remove it or explore the memory again"
        ) from None
    return model if model.detector == detector else None
