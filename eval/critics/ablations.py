"""Builds the agent and its ablations; each ablation explores its own memory.

| variant                 | difference to the agent                                                                 |
|-------------------------|-----------------------------------------------------------------------------------------|
| without rules           | one rule per metric, all of weight 1, none mined, admitted or fitted: the same evidence |
|                         | with equal weights (a backend that reads prose gets no rules)                           |
| without prototypes      | none is retrieved, so every metric has the same trust; rule weights are fitted for that |
| without reflection      | no re-observation and no revision                                                       |
| greedy                  | C = 0 in the rules' UCB: no exploration of rules that have not been used                |
| without a tool          | the tool is missing in exploration and in scoring                                       |
| true keypoints and mask | the tools get the truth as detections (`reference_critics.ground_truth_detector`): an   |
|                         | upper bound, no ablation                                                                |

All variants explore the same cases in the same order, so that the rule weights of an ablation are fitted without the
component that it lacks. Only the agent without rules shares the memory of the full agent: it uses its prototypes, which
hold the agreement of each metric with the truth and do not depend on rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.default import default_agent, open_default_memory
from agent.exploration.record import CRITIQUE, DETECTOR, READER, explored_detector
from agent.nodes.reobservation import LATER_EVIDENCE
from agent.tools import load_tools
from agent.types import unavailable_reason
from agent.vlm import EmbeddedCritic, VLMBackend
from common.failures import ScoresMissing
from common.progress import Stage
from common.storage.fingerprint import json_digest
from eval.critics.exploration import UCB, Exploration, detector_name
from eval.critics.files.evidence_cache import EvidenceCache
from eval.critics.files.verdict_cache import CriticVerdict, critique_with_cache
from eval.critics.groups import LabelledGroup
from eval.critics.reference_critics.ground_truth_detector import GroundTruthDetector
from hmr.body.model import Body
from hmr.policy.checkpoint import load_reader
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import calibration_parts
from hmr.types import Detector
from memory.folder import Memory
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.vectors.embed import TextEmbedder

__all__ = ["AGENT", "COMPONENTS", "AgentBench", "AgentVariant", "equal_rules", "metrics_of"]

COMPONENTS = ("rules", "prototypes", "reflection")
FAR_BELOW = -1e6  # every value exceeds this threshold, so that the graded violation is the value itself


@dataclass(frozen=True)
class AgentVariant:
    """What an agent lacks. Raises ValueError for an unknown component or tool."""

    without: frozenset[str] = frozenset()
    without_tools: frozenset[str] = frozenset()
    greedy: bool = False
    true_detections: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(self.without - set(COMPONENTS)):
            raise ValueError(
                f"unknown component {', '.join(unknown)}; the agent can run without {', '.join(COMPONENTS)}"
            )
        tools = [tool.name for tool in load_tools()] if self.without_tools else []
        if unknown := sorted(self.without_tools - set(tools)):
            raise ValueError(f"the agent has no tool {unknown[0]!r}; its tools are {', '.join(tools)}")

    @property
    def name(self) -> str:
        lacking = [*(part for part in COMPONENTS if part in self.without), *sorted(self.without_tools)]
        words = ["agent", *([f"without {' and '.join(lacking)}"] if lacking else [])]
        words += ["greedy"] * self.greedy + ["with true keypoints and mask"] * self.true_detections
        return " ".join(words)

    @property
    def explores_as(self) -> AgentVariant:
        """The variant whose memory this one uses."""
        return dataclasses.replace(self, without=self.without - {"rules"})

    def to_json(self) -> dict[str, Any]:
        lacking = {"without": sorted(self.without), "without_tools": sorted(self.without_tools)}
        return {**dataclasses.asdict(self), **lacking}


AGENT = AgentVariant()


@dataclass(frozen=True, kw_only=True)
class AgentBench:
    """Builds variants of the agent with one policy, one backend and one set of calibration cases.

    `memory`: a folder that was explored before. All variants then use it, and none is explored.
    """

    policy: DiffusionPolicy
    body: Body
    backend: VLMBackend
    embedder: TextEmbedder
    evidence: EvidenceCache
    calibration: Sequence[LabelledGroup]  # on which variants learn, in parts (`part`)
    tests: Sequence[LabelledGroup] = ()
    out: Path
    stage: Stage
    fingerprint: Mapping[str, Any] = field(default_factory=dict)  # of the calibration groups
    memory: Path | None = None
    seed: int = 0
    ucb: float = UCB
    detector: Detector | None = None  # None: the embedded one
    rules_per_case: int = CritiqueSettings.rules_per_case
    critique_settings: Mapping[str, Any] = field(default_factory=dict)  # other fields of CritiqueSettings

    def part(self, *names: str) -> list[LabelledGroup]:
        """The calibration groups of these parts (`hmr.synthetic.splits.calibration_parts`)."""
        parts = calibration_parts(len(self.calibration))
        return [self.calibration[row] for name in names for row in parts[name]]

    @contextmanager
    def agent(self, variant: AgentVariant) -> Iterator[CritiqueAgent]:
        """The frozen agent of a variant; its memory is explored first if that has not been done.

        Raises ValueError for a greedy variant of a given memory and for a memory that was explored with another
        detector, whose rule weights do not hold for this one, and ScoresMissing if the backend stops answering before
        the exploration is finished.
        """
        folder = self._explored(variant.explores_as) if self.memory is None else self.memory
        if variant.greedy and self.memory is not None:
            raise ValueError("the exploration of a given memory cannot be changed; leave out --memory")
        if self.memory is not None and not variant.true_detections:
            known, name = explored_detector(folder), detector_name(self.detector)
            if known not in (None, name):
                raise ValueError(f"{folder} was explored with the detector {known}, but this run uses {name}")
        with self._open_memory(folder, frozen=True) as memory:
            agent = self._build(variant, memory)
            if "rules" in variant.without:
                agent = self._without_rules(agent)
            yield agent

    def critique(
        self, name: str, agent: CritiqueAgent, groups: Sequence[LabelledGroup],
        progress: Callable[[int], None] = lambda done: None, needs_scores: bool = True,
    ) -> list[CriticVerdict]:  # fmt: skip
        """The verdicts of an agent, from the cache under `name` where they exist. Raises what `critique_with_cache`
        raises."""
        path = self.out / "verdicts" / f"{name.replace(' ', '-')}.jsonl"
        return critique_with_cache(path, agent, self.policy.digest(), groups, progress, needs_scores)

    def measure(self, groups: Sequence[LabelledGroup]) -> list[CriticVerdict]:
        """Verdicts that are used for their evidence only, from the seed rules and the embedded critic; re-observation
        adds evidence where these rules leave scores uncertain."""
        memory = self._open_memory(None, frozen=False)
        return self.critique("measurements", self._build(AGENT, memory, EmbeddedCritic()), groups)

    def _explored(self, variant: AgentVariant) -> Path:
        ucb = 0.0 if variant.greedy else self.ucb
        fingerprint = self._exploration_fingerprint(variant, ucb)
        groups = {group.labelled.sample.id: group.hypotheses for group in self.calibration}
        folder = f"{variant.name.replace(' ', '-')}-{json_digest(fingerprint, length=12)}"
        exploration = Exploration(
            folder=self.out / "memory" / folder,
            fingerprint=fingerprint,
            cases=[group.labelled for group in self.part("explore")],
            held_out=[group.labelled for group in self.part("admit")],
            propose=lambda sample: groups[sample.id],
            name=variant.name,
        )
        if exploration.saved_report() is None:
            with self._open_memory(exploration.folder, frozen=False, ucb=ucb) as memory:
                report = exploration.run(self._build(variant, memory), self.stage)
            reason = unavailable_reason(report.failures)
            if reason and exploration.saved_report() is None:
                raise ScoresMissing(
                    f"the exploration in {exploration.folder} is not finished, because the backend stopped answering "
                    f"({reason}); run the same command again to resume it"
                )
        return exploration.folder

    def _exploration_fingerprint(self, variant: AgentVariant, ucb: float) -> dict[str, Any]:
        """Names the memory's folder."""
        return {
            **self.fingerprint,
            **variant.to_json(),
            "backend": self.backend.name,
            "revision": self.backend.revision,
            "seed": self.seed,
            READER: load_reader(str(self.policy.device)).digest(),
            DETECTOR: GroundTruthDetector.name if variant.true_detections else detector_name(self.detector),
            "rules_per_case": self.rules_per_case,
            CRITIQUE: dict(self.critique_settings),
            "ucb": ucb,
        }

    def _open_memory(self, folder: Path | None, frozen: bool, ucb: float = UCB) -> Memory:
        return open_default_memory(
            folder, self.policy, frozen, text_embedder=self.embedder, ucb=ucb, detector=self.detector
        )

    def _build(
        self, variant: AgentVariant, memory: Memory, backend: VLMBackend | None = None
    ) -> CritiqueAgent:
        settings = CritiqueSettings(
            seed=self.seed, rules_per_case=self.rules_per_case, **self.critique_settings
        )
        if "reflection" in variant.without:
            settings = dataclasses.replace(settings, max_revisions=0)
        if "prototypes" in variant.without:
            settings = dataclasses.replace(settings, prototypes_per_case=0)
        detector = self.detector
        if variant.true_detections:
            groups = (*self.calibration, *self.tests)
            truths = {group.labelled.sample.id: group.labelled.truth for group in groups}
            detector = GroundTruthDetector(truths)
        tools = [tool for tool in load_tools() if tool.name not in variant.without_tools]
        return default_agent(
            self.policy,
            self.body,
            memory,
            backend=backend or self.backend,
            detector=detector,
            tools=self.evidence.wrap(tools),
            settings=settings,
        )

    def _without_rules(self, agent: CritiqueAgent) -> CritiqueAgent:
        """With equal rules for all measured metrics if the backend is the embedded critic, else with no rules."""
        rules = RuleMemory(MemoryStore(":memory:"), self.embedder)
        if self.backend.name == EmbeddedCritic.name:
            rules.add(equal_rules(set(metrics_of(self.measure(self.part("admit"))))))
        settings = dataclasses.replace(agent.settings, rules_per_case=max(1, len(rules)))
        return dataclasses.replace(agent, rules=rules, settings=settings)


def metrics_of(verdicts: Sequence[CriticVerdict]) -> list[str]:
    """The metrics that were measured before scoring, without those of re-observation."""
    return sorted(
        {item.metric for verdict in verdicts for item in verdict.evidence if item.tool != LATER_EVIDENCE}
    )


def equal_rules(metrics: set[str]) -> list[Rule]:
    """One rule of weight 1 per metric, whose graded violation is the metric's value."""
    provenance = Provenance(kind="seed", backend="equal weights", case_id=None)
    return [
        Rule.create(f"The less {metric}, the better.", [], provenance, Predicate(metric, ">", FAR_BELOW, 1.0))
        for metric in sorted(metrics)
    ]
