"""Base class of backends that wrap another one: recording, caching, counting, limiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.vlm.protocol import (
    SHA256_DIGITS,
    Capabilities,
    ImagePart,
    KeepsAnswers,
    Part,
    Reply,
    VLMBackend,
)
from common.storage.fingerprint import json_digest

__all__ = ["Wrapper", "question_key"]


class Wrapper:
    """Delegates everything to `inner`, under its name; a subclass overrides what it changes."""

    def __init__(self, inner: VLMBackend) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def revision(self) -> str:
        return self.inner.revision

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        return self.inner.generate(parts, schema, seed)

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None:
        if isinstance(self.inner, KeepsAnswers):
            self.inner.keep(parts, schema, seed, reply)


def question_key(
    name: str, revision: str, parts: Sequence[Part], schema: Mapping[str, Any], seed: int
) -> str:
    """The sha256 of everything a reply depends on: backend, schema (its title is the task), parts in order, seed.

    Prompt, rules, prototypes and evidence are parts and therefore in the key; a picture is hashed with its caption.
    """
    content = [
        [type(part).__name__, part.sha256, part.caption if isinstance(part, ImagePart) else ""]
        for part in parts
    ]
    return json_digest([name, revision, dict(schema), content, seed], length=SHA256_DIGITS)
