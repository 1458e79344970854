"""Objects that installed packages register as entry points: backends, critique tools, detectors."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from common.redaction import reason_of

__all__ = ["installed_plugins", "load_plugin"]


def installed_plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group in the installed packages, by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}


def load_plugin(point: EntryPoint) -> Any:
    """The object that an installed package registered.

    Raises ValueError, with the names of the plug-in and its package, if it cannot be imported.
    """
    try:
        return point.load()
    # Importing a third-party module can raise any exception, and every command lists the plug-ins.
    except Exception as error:
        package = point.dist.name if point.dist else point.module
        raise ValueError(
            f"the plug-in {point.name!r} of the installed package {package} cannot be loaded ({reason_of(error)})"
        ) from error
