"""A backend about another one: what recording, caching, counting and limiting have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.vlm.protocol import Capabilities, ImagePart, KeepsAnswers, Part, Reply, VLMBackend

__all__ = ["Wrapper", "question_key"]


class Wrapper:
    """Passes everything on to `inner`, under its name; a subclass changes one thing about that."""

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
    """The sha256 of everything that shapes a reply: backend, schema (its title is the task), parts in order, seed.

    The prompt, rules, prototypes and evidence are parts, and so in the key as well; a picture counts with its caption.
    """
    content = [
        [type(part).__name__, part.sha256, part.caption if isinstance(part, ImagePart) else ""]
        for part in parts
    ]
    whole = json.dumps([name, revision, dict(schema), content, seed], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
