"""Settings and versions that a run folder records.

FOLDER/run.json      of the last run in the folder; runs with one file of results have both in that file
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.storage.files import PathLike, write_text

__all__ = ["RUN", "versions", "write_run"]

RUN = "run.json"

PACKAGES = (
    "torch", "transformers", "diffusers", "langgraph", "faiss-cpu", "sentence-transformers", "smplx", "trl",
    "datasets", "accelerate", "numpy", "numba",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of this program (its commit), Python and the main packages."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"commit": _commit(), "python": platform.python_version(), **found}


def write_run(folder: PathLike, settings: Mapping[str, Any]) -> None:
    """Write run.json. settings: what JSON can hold, with paths by name and without secrets, as a run may be shared."""
    write_text(Path(folder) / RUN, json.dumps({"settings": settings, "versions": versions()}, indent=1))


def _commit() -> str:
    """The commit of the checkout, with "+" for changed files; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
