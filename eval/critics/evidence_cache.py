"""Measurements on disk: a tool looks at a group once, however many critics then judge from what it found.

An entry's key is everything that a tool is given (photograph, box, cameras, bodies, what the detector saw) and its
name with the text of its module: a tool that was changed measures again. Other code, such as the renderer's, is not
in the key; after a change of that remove the file. What raised is not kept.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from agent.types import Case, CritiqueTool, Evidence, Need
from common.jsonl import Manifest

__all__ = ["EvidenceCache"]


class EvidenceCache:
    """One file of evidence, open inside its `with` block; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._entries, self._lock = Manifest(path), threading.Lock()

    def __enter__(self) -> EvidenceCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entries.__exit__(kind, error, trace)

    def around(self, tools: Sequence[CritiqueTool]) -> list[CritiqueTool]:
        """The same tools, each asked only for what is not kept."""
        return [_CachedTool(tool, self) for tool in tools]

    def measure(self, tool: CritiqueTool, stamp: str, case: Case) -> Evidence:
        key = f"{tool.name} {_case_key(case)}"
        with self._lock:
            found = self._entries.find(key, stamp)
        if found is not None:
            return _evidence(found["evidence"])
        evidence = tool.measure(case)
        with self._lock:
            self._entries.add({"name": key, "stamp": stamp, "evidence": asdict(evidence)})
        return evidence


class _CachedTool:
    """A tool with a memory."""

    def __init__(self, tool: CritiqueTool, kept: EvidenceCache) -> None:
        self.name: str = tool.name
        self.needs: frozenset[Need] = tool.needs
        self._tool, self._kept = tool, kept
        source = inspect.getsource(sys.modules[type(tool).__module__])
        self.stamp = hashlib.sha256(source.encode()).hexdigest()[:16]

    def measure(self, case: Case) -> Evidence:
        return self._kept.measure(self._tool, self.stamp, case)


def _case_key(case: Case) -> str:
    """Of all that shapes a measurement but code and body model; posed bodies and renders follow from it."""
    digest = hashlib.sha256(repr((case.sample.id, case.sample.box, case.sample.image.shape)).encode())
    digest.update(case.sample.image.tobytes())
    digest.update(repr((case.sample.camera, case.hypotheses.camera, case.view)).encode())
    for column in vars(case.hypotheses.params).values():
        digest.update(_bytes(column))
    for column in vars(case.detection).values() if case.detection is not None else ():
        digest.update(_bytes(column))
    return digest.hexdigest()[:32]


def _bytes(value: Any) -> bytes:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()


def _evidence(entry: dict[str, Any]) -> Evidence:
    lists = {name: tuple(entry[name]) for name in ("values", "sentences")}
    parts = tuple(tuple(words) for words in entry["parts"])
    return Evidence(entry["tool"], entry["metric"], entry["unit"], parts=parts, **lists)
