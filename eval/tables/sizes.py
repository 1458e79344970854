"""The sizes of a run of the tables: a quick one, meant for half an hour on two cores, and the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.study.arms import Method
from eval.study.study import Sizes

__all__ = ["FULL", "QUICK", "TableSizes"]


MIN_PEOPLE = 8  # two halves of four rounds


@dataclass(frozen=True)
class TableSizes:
    """study: of the alignments. align, more: images of the split to align on, and those of the row with more images.
    critic_images: groups on which critics are compared. methods: of the agent's arms beside the policy gradient.
    whole_sets: whether results are of all people of a real data set, instead of as many as of the open benchmark.
    """

    study: Sizes
    align: int
    more: int
    critic_images: int
    seeds: Sequence[int]
    methods: Sequence[Method] = ()
    whole_sets: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of hypotheses M of the minimum."""
        return tuple(sorted({*self.study.minima, self.study.samples}))

    def with_people(self, people: int) -> TableSizes:
        """At most as many images to align on as there are people, and half of them without the row with more images.

        Raises ValueError for fewer people than four rounds need.
        """
        if people < MIN_PEOPLE:
            raise ValueError(f"an alignment needs at least {MIN_PEOPLE} people, not {people}")
        more = min(self.more, people)
        return replace(self, more=more, align=min(self.align, more // 2))


QUICK = TableSizes(
    study=Sizes(test=40, samples=100, calibration=64, steps=300, picks=False, minima=(10,), references=False),
    align=400,
    more=800,
    critic_images=40,
    seeds=(0,),
)
FULL = TableSizes(
    study=Sizes(test=100, samples=200, picks=False, minima=(10, 100), references=False),
    align=1600,
    more=3200,
    critic_images=300,
    seeds=(0, 1, 2, 3, 4),
    methods=(Method.SEARCH, Method.RESAMPLE),
    whole_sets=True,
)
