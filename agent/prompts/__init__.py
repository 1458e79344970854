"""The instructions of each task, one Markdown file per task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from agent.vlm.protocol import Task
from common.storage.fingerprint import digest

__all__ = ["Prompt", "load_prompt"]


@dataclass(frozen=True)
class Prompt:
    text: str
    version: str  # hash of the text, written to traces


@lru_cache(maxsize=16)
def load_prompt(task: Task) -> Prompt:
    """The prompt of a task; the file is read once."""
    text = files(__name__).joinpath(f"{task}.md").read_text(encoding="utf-8")
    return Prompt(text, digest(text, length=12))
