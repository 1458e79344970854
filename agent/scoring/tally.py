"""Counts the questions of a run, of all its critiques and explorations, by backend.

A command that critiques many groups opens a tally around its run; `ask` adds every question to all open ones. A tally
belongs to the process rather than to an agent, because a run may make several agents, and scores in several threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from agent.types import QuestionCounts, QuestionFailure, lost_questions

__all__ = ["QuestionTally", "add_question", "tallied_questions"]

_open_tallies: list[QuestionTally] = []


class QuestionTally:
    """Questions asked, answered, repaired and lost, by the name of the backend. Thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[str, QuestionCounts] = {}
        self._failures: dict[str, Counter[QuestionFailure]] = {}
        self._lock = threading.Lock()

    def add(self, backend: str, counts: QuestionCounts, failure: QuestionFailure | None) -> None:
        with self._lock:
            self._counts[backend] = self._counts.get(backend, QuestionCounts()) + counts
            if failure:
                self._failures.setdefault(backend, Counter())[failure] += 1

    def lost(self) -> list[str]:
        """A sentence per backend that did not answer all questions."""
        with self._lock:
            return [
                f"{backend}: {lost_questions(counts, list(self._failures[backend].elements()))}"
                for backend, counts in self._counts.items()
                if counts.lost
            ]


@contextmanager
def tallied_questions() -> Iterator[QuestionTally]:
    """Counts the questions that this process asks within the block."""
    tally = QuestionTally()
    _open_tallies.append(tally)
    try:
        yield tally
    finally:
        _open_tallies.remove(tally)


def add_question(backend: str, counts: QuestionCounts, failure: QuestionFailure | None) -> None:
    """Add a question and its outcome to all open tallies."""
    for tally in tuple(_open_tallies):
        tally.add(backend, counts, failure)
