"""Answers a model's calls about one group, by name.

Thread-safe, because the label orders of a group are scored concurrently.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from agent.context import CritiqueResources, CritiqueSettings
from agent.evidence_calls.calls import CallResult
from agent.evidence_calls.case_calls import CaseSource, case_calls
from agent.evidence_calls.memory_calls import RECALL_RULES, MemorySource
from agent.types import Case, CritiqueTool, Evidence
from agent.vlm.protocol import CallSpec

__all__ = ["CallDispatcher"]


class CallDispatcher:
    """The calls of a critique: those on its case, and the rules of its memory."""

    def __init__(self, resources: CritiqueResources, settings: CritiqueSettings) -> None:
        self._resources = resources
        self._tools = [_MeasuredOnce(tool) for tool in resources.tools]
        calls = case_calls(self._tools, resources.backend.capabilities.images)
        self._case_calls = {call.name: call for call in calls}
        self._memory = MemorySource(
            resources.rules, resources.prototypes, resources.frozen, settings.rules_per_case
        )
        self.specs: list[CallSpec] = [*(call.spec for call in calls), RECALL_RULES.spec]

    def answer(self, name: str, arguments: object, labels: Mapping[str, int]) -> CallResult:
        """Raises ValueError, with one sentence, for an unknown call and for wrong arguments."""
        if name == RECALL_RULES.name:
            return RECALL_RULES.run(self._memory, arguments)
        if name not in self._case_calls:
            known = ", ".join(spec.name for spec in self.specs)
            raise ValueError(f"there is no call {name[:60]!r}; there are {known}")
        resources = self._resources
        source = CaseSource(resources.case, self._tools, resources.renderer, labels)
        return self._case_calls[name].run(source, arguments)


class _MeasuredOnce:
    """A tool that keeps its evidence on the one case of a critique, for all label orders."""

    def __init__(self, tool: CritiqueTool) -> None:
        self.name, self.needs = tool.name, tool.needs
        self._tool, self._found = tool, None
        self._lock = threading.Lock()

    def measure(self, case: Case) -> Evidence:
        with self._lock:
            if self._found is None:
                self._found = self._tool.measure(case)
            return self._found
