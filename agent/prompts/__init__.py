"""The questions put to a backend, one Markdown file a task; a prompt's version is the hash of its text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from agent.vlm.protocol import Task

__all__ = ["Prompt", "load_prompt"]


@dataclass(frozen=True)
class Prompt:
    text: str
    version: str  # first 12 hex digits of the text's sha256: goes into traces and cache keys


@lru_cache(maxsize=8)
def load_prompt(task: Task) -> Prompt:
    """The prompt of one task, read once."""
    text = files(__name__).joinpath(f"{task}.md").read_text(encoding="utf-8")
    return Prompt(text, hashlib.sha256(text.encode()).hexdigest()[:12])
