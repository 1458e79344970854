"""Cases explored by the embedded critic, with their groups and scenes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from agent.exploration.explore import explore
from agent.exploration.learning import Explored
from hmr.types import Hypotheses, Labelled, Sample
from tests.agent.critique_case import group, labelled, make_agent, spoiled_group

__all__ = ["Case", "explored_cases", "propose"]


@dataclass(frozen=True)
class Case:
    explored: Explored
    labelled: Labelled
    hypotheses: Hypotheses


def propose(sample: Sample) -> Hypotheses:
    return group(spoiled_group(seed=sum(map(ord, sample.id)), group=5))


@lru_cache(maxsize=1)
def explored_cases() -> tuple[Case, ...]:
    """Two of them, five hypotheses each."""
    agent, scenes = make_agent(), [labelled("explored-0"), labelled("explored-1")]
    explore(agent, scenes, [], propose)
    stored = agent.rules.explored([scene.sample.id for scene in scenes])
    return tuple(
        Case(Explored.from_json(scene.sample.id, stored[scene.sample.id]), scene, propose(scene.sample))
        for scene in scenes
    )
