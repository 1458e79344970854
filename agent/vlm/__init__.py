"""VLM backends, found by a spec string: a name, and after a colon whatever that backend understands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from agent.tracing.redaction import reason_of
from agent.vlm.embedded.critic import EmbeddedCritic
from agent.vlm.protocol import (
    Capabilities,
    DataPart,
    ImagePart,
    KeepsAnswers,
    MalformedReply,
    Part,
    Reply,
    Task,
    TextPart,
    Unanswerable,
    VLMBackend,
)

__all__ = [
    "Capabilities",
    "DataPart",
    "EmbeddedCritic",
    "ImagePart",
    "KeepsAnswers",
    "MalformedReply",
    "Part",
    "Reply",
    "Task",
    "TextPart",
    "Unanswerable",
    "VLMBackend",
    "backend_names",
    "load_backend",
    "load_plugin",
]

ENTRY_POINT_GROUP = "meshcritic.vlm_backends"
# The house's own besides the embedded critic: modules of this package, loaded when named.
OWN = {
    "openai": "agent.vlm.openai",
    "local": "agent.vlm.local.backend",
    "langchain": "agent.vlm.langchain",
    "replay": "agent.vlm.replay",
}


def load_backend(spec: str = "embedded", **settings: Any) -> VLMBackend:
    """The backend of a spec such as "embedded" or "NAME:ARGUMENT", with settings of its own.

    Other names are looked up among the installed packages' entry points of the group
    `meshcritic.vlm_backends`; the entry point is called with the argument (empty if there is none). Raises
    ValueError for an unknown name, a plug-in that cannot be loaded, and a setting that the backend does not have.
    """
    name, _, argument = spec.partition(":")
    build = _builder(name, spec)
    try:
        inspect.signature(build).bind(argument, **settings)
    except TypeError as error:
        raise ValueError(f"the backend {name} has no such setting ({error})") from error
    return build(argument, **settings)


def backend_names() -> list[str]:
    """What a spec may begin with: the house's own, then the installed plug-ins'."""
    return ["embedded", *OWN, *sorted(_plugins())]


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _builder(name: str, spec: str) -> Callable[..., VLMBackend]:
    if spec == "embedded":
        return lambda argument: EmbeddedCritic()
    if name in OWN:
        return import_module(OWN[name]).from_argument
    plugins = _plugins()
    if name not in plugins:
        raise ValueError(f"no VLM backend {spec!r}; there are: {', '.join(backend_names())}")
    return load_plugin(plugins[name])


def load_plugin(point: EntryPoint) -> Callable[..., Any]:
    """What an installed package registered, a backend or a critique tool.

    Raises ValueError, naming the plug-in and its package, where that cannot be imported.
    """
    try:
        return point.load()
    # Somebody else's module: importing it may raise anything, and every command looks for plug-ins.
    except Exception as error:
        package = point.dist.name if point.dist else point.module
        raise ValueError(
            f"the plug-in {point.name!r} of the installed package {package} cannot be loaded ({reason_of(error)})"
        ) from error
