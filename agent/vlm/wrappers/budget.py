"""Limits the number of requests of a run, with one counter for all threads.

A backend that retries requests counts each of them through its own `budget`; for any other backend each question is one
request. A question beyond the budget is not sent: it fails with a reason, and its scores are None.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from agent.vlm.protocol import Part, Reply, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper
from common.stopping import raise_if_stopped

__all__ = ["Budget", "BudgetSpent", "with_budget"]


class BudgetSpent(RuntimeError):
    """The budget has no request left."""


class Budget:
    """A hard limit on requests; with `max_calls=None` they are only counted."""

    def __init__(self, max_calls: int | None = None) -> None:
        self.max_calls, self.calls = max_calls, 0
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Count one request. Raises BudgetSpent if the limit is reached already, Stopped if the command is stopped."""
        raise_if_stopped()
        with self._lock:
            if self.calls == self.max_calls:
                raise BudgetSpent(f"the budget of {self.max_calls} calls is spent")
            self.calls += 1


@runtime_checkable
class HasBudget(Protocol):
    """A backend that counts its own requests."""

    budget: Budget


class Budgeted(Wrapper):
    """Counts one call per question."""

    def __init__(self, inner: VLMBackend, budget: Budget) -> None:
        super().__init__(inner)
        self._budget = budget

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        self._budget.spend()
        return self.inner.generate(parts, schema, seed)


def with_budget(backend: VLMBackend, budget: Budget) -> VLMBackend:
    """The backend with a budget: its own counter if it has one, otherwise a wrapper."""
    if isinstance(backend, HasBudget):
        backend.budget = budget
        return backend
    return Budgeted(backend, budget)
