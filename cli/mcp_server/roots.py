"""The folders that a client of the MCP server may name files in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["Roots"]


class Roots:
    """Finds files and folders by path; a path that leads out of the given folders is refused, also through a link.

    Raises ValueError for a root that is not a folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if missing := [folder for folder in folders if not folder.is_dir()]:
            raise ValueError(f"--root takes an existing folder, and {missing[0]} is none")
        self.folders = tuple(folder.resolve() for folder in folders)

    def find(self, path: str, what: str) -> Path:
        """The path without links; a relative one starts at the first root. `what` names the argument in errors.

        Raises ValueError for a path outside, and FileNotFoundError if nothing is there.
        """
        try:
            found = (self.folders[0] / path).resolve()
        except (ValueError, OSError, RuntimeError):
            raise ValueError(f"{what} is not a path: {path[:100]!r}") from None
        # before it is looked for: an error must not tell what exists elsewhere
        if not any(found.is_relative_to(folder) for folder in self.folders):
            allowed = ", ".join(map(str, self.folders))
            raise ValueError(f"{what} must be in {allowed} (--root), and {path[:100]!r} is not")
        if not found.exists():
            raise FileNotFoundError(f"{what}: there is no {path[:100]!r}")
        return found
