"""Finds VLM backends by a spec string: a name and, after a colon, an argument that the backend interprets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from agent.vlm.embedded.critic import EmbeddedCritic
from agent.vlm.protocol import VLMBackend
from agent.vlm.settings import UnknownSetting
from common.plugins import installed_plugins, load_plugin

__all__ = ["ENTRY_POINT_GROUP", "backend_names", "check_backend", "load_backend"]

ENTRY_POINT_GROUP = "meshcritic.vlm_backends"
# Built-in backends besides the embedded critic; each module is imported when its backend is requested.
BUILT_IN = {
    "openai": "agent.vlm.openai",
    "local": "agent.vlm.local.backend",
    "langchain": "agent.vlm.langchain",
    "replay": "agent.vlm.replay",
}


def load_backend(spec: str = "embedded", **settings: Any) -> VLMBackend:
    """The backend of a spec such as "embedded" or "NAME:ARGUMENT", with backend-specific settings.

    A name that is not built in is searched among the entry points of the group `meshcritic.vlm_backends` in the
    installed packages; the entry point is called with the argument (an empty string if there is none). Raises
    ValueError for an unknown name, a plug-in that cannot be loaded, and an unknown setting.
    """
    name, _, argument = spec.partition(":")
    build = _builder(name, spec)
    signature = inspect.signature(build)
    try:
        signature.bind(argument, **settings)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        unknown = ", ".join(sorted(set(settings) - set(signature.parameters)))
        raise UnknownSetting(
            f"the backend {name} has no such setting: {unknown}; "
            + (f"it has {known}" if known else "it has none")
        ) from error
    return build(argument, **settings)


def check_backend(spec: str) -> None:
    """Raises ValueError for a spec whose name is unknown, without loading anything."""
    name = spec.partition(":")[0]
    if spec != "embedded" and name not in BUILT_IN and name not in installed_plugins(ENTRY_POINT_GROUP):
        raise ValueError(f"no VLM backend {spec!r}; there are: {', '.join(backend_names())}")


def backend_names() -> list[str]:
    """The names that a spec can start with: built-in backends first, then installed plug-ins."""
    return ["embedded", *BUILT_IN, *sorted(installed_plugins(ENTRY_POINT_GROUP))]


def _builder(name: str, spec: str) -> Callable[..., VLMBackend]:
    if spec == "embedded":
        return lambda argument: EmbeddedCritic()
    if name in BUILT_IN:
        return import_module(BUILT_IN[name]).from_argument
    plugins = installed_plugins(ENTRY_POINT_GROUP)
    check_backend(spec)
    return load_plugin(plugins[name])
