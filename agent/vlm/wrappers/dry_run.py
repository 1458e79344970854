"""Counts the questions of a critique without sending any: a stand-in for a backend.

Its placeholder answers fit the schema and mark every hypothesis as uncertain, so the graph takes its longest path, with
every revision that the settings allow, and in the agentic mode with every call, one per answer. Repairs of malformed
replies and retried requests come on top and cannot be predicted. Token counts are estimates: four characters per token,
and one token per 28 x 28 pixels of a picture (as for Qwen-VL; the count of other models may be a few times higher or
lower).
"""

from __future__ import annotations

import io
import json
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from PIL import Image

from agent.vlm.actions import allowed_calls, is_action, scores_schema
from agent.vlm.protocol import ImagePart, Part, Reply, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper

__all__ = ["DryRun"]

CHARS_PER_TOKEN = 4
TOKEN_SIDE_PX = 28
COMMENT = "the usual length of a comment, with a body part in it and what is wrong with it"


class DryRun(Wrapper):
    """Replaces `inner`, under its name and with its capabilities."""

    def __init__(self, inner: VLMBackend) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()  # by task
        self.images = self.tokens_in = self.tokens_out = 0
        self._lock = threading.Lock()

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        question = json.dumps(dict(schema)) + "".join(
            p.caption if isinstance(p, ImagePart) else p.text for p in parts
        )
        text = json.dumps(_placeholder(schema, Random(question)))
        pictures = [part for part in parts if isinstance(part, ImagePart)]
        tokens_in = len(question) // CHARS_PER_TOKEN + sum(map(_picture_tokens, pictures))
        with self._lock:
            self.calls[schema["title"]] += 1
            self.images += len(pictures)
            self.tokens_in += tokens_in
            self.tokens_out += len(text) // CHARS_PER_TOKEN
        return Reply(text)

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None:
        """Placeholder answers are not stored."""

    def as_json(self) -> dict[str, Any]:
        """The counts. `calls_if_certain` is the number of calls if reflection marks nothing as uncertain."""
        return {
            "backend": self.name,
            "sends_to": self.capabilities.sends_to or "this machine",
            "calls": self.calls.total(),
            "calls_if_certain": self.calls.total() - 2 * self.calls["revise"],
            "by_task": dict(self.calls),
            "images": self.images,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }


def _placeholder(schema: Mapping[str, Any], random: Random) -> dict[str, Any]:
    if is_action(schema):
        return _placeholder_action(schema, random)
    task, labels = schema["title"], list(schema["properties"])
    if task == "tag":
        return {"tags": ["pose:upright", "facing:camera"]}
    if task == "mine":
        return {"rules": []}
    if task == "reflect":
        return {label: {"uncertain": True, "reason": COMMENT} for label in labels}
    return _placeholder_scores(labels, random)


def _placeholder_action(schema: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """A call as long as calls are allowed, then the scores."""
    if calls := allowed_calls(schema):
        return {"calls": [{"name": calls[0].name, "arguments": {}}], "scores": None}
    return {"scores": _placeholder_scores(list(scores_schema(schema)["properties"]), random)}


def _placeholder_scores(labels: Sequence[str], random: Random) -> dict[str, Any]:
    """Scores that differ between questions: scores that follow the labels would be withheld."""
    return {label: {"comment": COMMENT, "score": float(random.randrange(100))} for label in labels}


def _picture_tokens(part: ImagePart) -> int:
    with Image.open(io.BytesIO(part.png)) as image:
        width, height = image.size
    return math.ceil(width / TOKEN_SIDE_PX) * math.ceil(height / TOKEN_SIDE_PX)
