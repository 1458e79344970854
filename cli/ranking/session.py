"""The questions to one person, in an order that depends on the seed and the person alone.

A judge sees positions, never the index of a hypothesis: positions are shuffled for each judge and question, so that
neither the order in the file, which starts with the policy's initial estimate, nor that of another judge shows through.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from common.seeding import derive_seed
from eval.rankings.file import Order, RankedGroup, RankingsFile

__all__ = ["MAX_GROUP", "Question", "Session"]

MAX_GROUP = 35  # hypotheses of a whole ranking: each has a key, 1 to 9 and then a letter


@dataclass(frozen=True)
class Question:
    """Some hypotheses of a group, in the order in which they are shown."""

    group: str
    shown: tuple[int, ...]

    @property
    def key(self) -> tuple[str, frozenset[int]]:
        return self.group, frozenset(self.shown)


class Session:
    """The questions of a judge, and the file that takes the answers. Thread-safe.

    pairs: questions of two hypotheses per group; None for whole groups. Raises ValueError for a group that is too large
    to be ranked as a whole.
    """

    def __init__(
        self, file: RankingsFile, groups: Sequence[RankedGroup], judge: str, pairs: int | None, seed: int
    ) -> None:
        self._file, self.judge = file, judge
        self._lock = threading.Lock()
        for group in groups:
            if pairs is None and group.size > MAX_GROUP:
                raise ValueError(
                    f"{group.name} has {group.size} hypotheses, and a person can rank at most {MAX_GROUP} at once; "
                    "--pairs N asks about pairs"
                )
            file.add_group(group)
        random = np.random.default_rng(derive_seed(seed, "order of groups", judge))
        self.questions = [
            question
            for place in random.permutation(len(groups))
            for question in _questions(groups[place], judge, pairs, seed)
        ]
        answered = {(order.group, order.hypotheses) for order in file.orders if order.judge == judge}
        self._open = [
            number for number, question in enumerate(self.questions) if question.key not in answered
        ]

    @property
    def finished(self) -> bool:
        return not self._open

    def state(self) -> dict[str, Any]:
        """What the page shows next: the number of the question and how many pictures it has."""
        with self._lock:
            progress = {"done": len(self.questions) - len(self._open), "total": len(self.questions)}
            if not self._open:
                return {"finished": True, **progress}
            number = self._open[0]
            return {"question": number, "count": len(self.questions[number].shown), **progress}

    def answer(self, number: Any, order: Any) -> None:
        """Store the answer to the open question `number`; `order` has lists of positions, best first.

        Raises ValueError for another question, as after a second tab has answered it, and for another order.
        """
        with self._lock:
            if type(number) is not int or not self._open or number != self._open[0]:
                raise ValueError("this question is not open")
            question = self.questions[number]
            if not _is_order(order, len(question.shown)):
                raise ValueError(f"order takes each of the positions 0 to {len(question.shown) - 1} once")
            indices = tuple(tuple(question.shown[place] for place in equal) for equal in order)
            self._file.add_order(Order(self.judge, question.group, indices))
            self._open.pop(0)


def _questions(group: RankedGroup, judge: str, pairs: int | None, seed: int) -> list[Question]:
    random = np.random.default_rng(derive_seed(seed, "hypotheses", judge, group.name))
    if pairs is None:
        return [Question(group.name, tuple(random.permutation(group.size).tolist()))]
    every = list(combinations(range(group.size), 2))
    chosen = [every[place] for place in random.permutation(len(every))[:pairs]]
    return [Question(group.name, tuple(random.permutation(pair).tolist())) for pair in chosen]


def _is_order(order: Any, count: int) -> bool:
    if not (isinstance(order, list) and all(isinstance(equal, list) and equal for equal in order)):
        return False
    places = [place for equal in order for place in equal]
    return all(type(place) is int for place in places) and sorted(places) == list(range(count))
