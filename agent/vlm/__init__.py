"""VLM backends: the models that answer the agent's questions."""

from agent.vlm.embedded.critic import EmbeddedCritic
from agent.vlm.protocol import (
    CallPart,
    CallSpec,
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
from agent.vlm.registry import backend_names, load_backend

__all__ = [
    "CallPart",
    "CallSpec",
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
]
