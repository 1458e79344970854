"""Failures that are not the fault of the input."""

from __future__ import annotations

__all__ = ["ScoresMissing"]


class ScoresMissing(ValueError):
    """The scores that a command was run for are missing, because of the backend. The command ends with exit code 1.

    Exit code 2 is for invalid input.
    """
