"""Caches evidence on disk, so that a tool measures a group once for any number of critics.

The key of an entry is the tool's name, its input (photograph, box, cameras, bodies and their model, detection) and the
source of its module, so a changed tool measures again. Other code, such as the renderer's, is not part of the key;
remove the file after such a change. A measurement that raised is not cached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from agent.tools.running import tool_source_digest
from agent.types import Case, CritiqueTool, Evidence, Need
from common.storage.fingerprint import digest
from common.storage.jsonl import Manifest

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

    def wrap(self, tools: Sequence[CritiqueTool]) -> list[CritiqueTool]:
        """The same tools, which measure only what is not in the cache."""
        return [_CachedTool(tool, self) for tool in tools]

    def measure(self, tool: CritiqueTool, source_digest: str, case: Case) -> Evidence:
        key = f"{tool.name} {_case_key(case)}"
        with self._lock:
            record = self._entries.find(key, source_digest)
        if record is not None:
            return Evidence.from_json(record["evidence"])
        evidence = tool.measure(case)
        with self._lock:
            self._entries.add({"name": key, "fingerprint": source_digest, "evidence": evidence.to_json()})
        return evidence


class _CachedTool:
    def __init__(self, tool: CritiqueTool, cache: EvidenceCache) -> None:
        self.name: str = tool.name
        self.needs: frozenset[Need] = tool.needs
        self._tool, self._cache = tool, cache
        self.source_digest = tool_source_digest(tool)

    def measure(self, case: Case) -> Evidence:
        return self._cache.measure(self._tool, self.source_digest, case)


def _case_key(case: Case) -> str:
    """Digest of the whole input of a tool; posed bodies and renders follow from it."""
    return digest(*_input_parts(case), length=32)


def _input_parts(case: Case) -> Iterator[str | bytes]:
    yield repr((case.sample.id, case.sample.box, case.sample.image.shape))
    yield case.sample.image.tobytes()
    yield case.body.digest()
    yield repr((case.sample.camera, case.hypotheses.camera, case.view))
    yield from map(_bytes, vars(case.hypotheses.params).values())
    if case.detection is not None:
        yield from map(_bytes, vars(case.detection).values())


def _bytes(value: Any) -> bytes:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
