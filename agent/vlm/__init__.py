"""VLM backends, found by a spec string: a name, and after a colon whatever that backend understands."""

from __future__ import annotations

from importlib.metadata import entry_points

from agent.vlm.embedded import EmbeddedCritic
from agent.vlm.protocol import (
    Capabilities,
    DataPart,
    ImagePart,
    MalformedReply,
    Part,
    Reply,
    Task,
    TextPart,
    VLMBackend,
)

__all__ = [
    "Capabilities",
    "DataPart",
    "EmbeddedCritic",
    "ImagePart",
    "MalformedReply",
    "Part",
    "Reply",
    "Task",
    "TextPart",
    "VLMBackend",
    "load_backend",
]

ENTRY_POINT_GROUP = "meshcritic.vlm_backends"


def load_backend(spec: str = "embedded") -> VLMBackend:
    """The backend of a spec such as "embedded" or "NAME:ARGUMENT".

    Other names are looked up among the installed packages' entry points of the group
    `meshcritic.vlm_backends`; the entry point is called with the argument (empty if there is none). Raises
    ValueError for an unknown name.
    """
    name, _, argument = spec.partition(":")
    if name == "embedded" and not argument:
        return EmbeddedCritic()
    plugins = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in plugins:
        raise ValueError(f"no VLM backend {spec!r}; there are: {', '.join(['embedded', *sorted(plugins)])}")
    return plugins[name].load()(argument)
