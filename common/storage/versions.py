"""Versions that a run folder records."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

__all__ = ["versions"]

PACKAGES = (
    "torch", "transformers", "diffusers", "langgraph", "faiss-cpu", "sentence-transformers", "smplx", "trl",
    "datasets", "accelerate", "numpy", "numba",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Of this program (its commit), Python and the main packages."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"commit": _commit(), "python": platform.python_version(), **found}


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
