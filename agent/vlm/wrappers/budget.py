"""How many requests may still be made: one counter that all threads share.

A backend that may send one question several times (retries) counts for itself, through its own `budget`; for any
other, a question is a request. A question beyond the budget is not asked: it fails with a reason, and its scores are
None. Every run counts from nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from agent.vlm.protocol import Part, Reply, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper

__all__ = ["Budget", "BudgetSpent", "Budgeted", "SpendsItself", "with_budget"]


class BudgetSpent(RuntimeError):
    """No request is left."""


class Budget:
    """A hard limit on requests; None only counts them."""

    def __init__(self, max_calls: int | None = None) -> None:
        self.max_calls, self.calls = max_calls, 0
        self._lock = threading.Lock()

    def spend(self) -> None:
        """One request more. Raises BudgetSpent where it would be one too many."""
        with self._lock:
            if self.calls == self.max_calls:
                raise BudgetSpent(f"the budget of {self.max_calls} calls is spent")
            self.calls += 1


@runtime_checkable
class SpendsItself(Protocol):
    """A backend that spends its budget request by request."""

    budget: Budget


class Budgeted(Wrapper):
    """Spends one call a question."""

    def __init__(self, inner: VLMBackend, budget: Budget) -> None:
        super().__init__(inner)
        self._budget = budget

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        self._budget.spend()
        return self.inner.generate(parts, schema, seed)


def with_budget(backend: VLMBackend, budget: Budget) -> VLMBackend:
    """The backend under a budget, counted as finely as it can."""
    if isinstance(backend, SpendsItself):
        backend.budget = budget
        return backend
    return Budgeted(backend, budget)
