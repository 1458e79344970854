"""The critics that are compared, and what each value of `--critic` runs.

A critic is a variant of the agent (`eval.critics.ablations`) or a baseline (`reference_critics.baselines`). Its `name`
is the same in tables, JSON and files; the program tells critics apart by these values, not by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.tools import load_tools
from eval.critics.ablations import AGENT, COMPONENTS, AgentVariant

__all__ = [
    "AGENT_ALONE", "BASELINES", "CONSENSUS", "CRITICS", "GREEDY", "HMR_SCORER", "PARTS", "RANDOM", "RANK_NET",
    "TRUE_DETECTIONS", "Baseline", "Critic", "CriticChoice", "all_variants",
]  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """A critic beside the agent. name: also its value of `--critic`."""

    name: str
    fitted: bool = False  # on the calibration split, even if the agent is given a memory
    uses_detector: bool = False


Critic = AgentVariant | Baseline

HMR_SCORER = Baseline("hmr-scorer", fitted=True)
RANK_NET = Baseline("ranknet", fitted=True, uses_detector=True)
CONSENSUS = Baseline("consensus")
RANDOM = Baseline("random")
BASELINES = (HMR_SCORER, RANK_NET, CONSENSUS, RANDOM)

GREEDY = AgentVariant(greedy=True)
TRUE_DETECTIONS = AgentVariant(true_detections=True)
PARTS = tuple(AgentVariant(without=frozenset({part})) for part in COMPONENTS)


def all_variants(with_greedy: bool) -> list[AgentVariant]:
    """The agent, without each component and each tool, and its other variants. with_greedy: not for a given memory."""
    without_tools = (AgentVariant(without_tools=frozenset({tool.name})) for tool in load_tools())
    return [AGENT, *PARTS, *([GREEDY] if with_greedy else []), *without_tools, TRUE_DETECTIONS]


@dataclass(frozen=True)
class CriticChoice:
    """What a value of `--critic` runs. in_parts: `all_variants` of the agent, and each metric alone."""

    agent: AgentVariant | None = None
    baselines: tuple[Baseline, ...] = ()
    in_parts: bool = False

    @property
    def fits_baseline(self) -> bool:
        return any(baseline.fitted for baseline in self.baselines)

    @property
    def uses_detector(self) -> bool:
        """Whether another detector makes a difference."""
        given = self.agent is not None and not self.agent.true_detections
        return given or any(baseline.uses_detector for baseline in self.baselines)


AGENT_ALONE = CriticChoice(AGENT)
CRITICS: Mapping[str, CriticChoice] = {
    "agent": AGENT_ALONE,
    "greedy": CriticChoice(GREEDY),
    "true-detections": CriticChoice(TRUE_DETECTIONS),
    **{baseline.name: CriticChoice(baselines=(baseline,)) for baseline in BASELINES},
    "peers": CriticChoice(AGENT, BASELINES),
    "all": CriticChoice(AGENT, BASELINES, in_parts=True),
}
