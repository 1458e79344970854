"""The agent and its ablations, each explored under its own ablation and as good as it can be made.

| variant                 | what is different                                                                     |
|-------------------------|---------------------------------------------------------------------------------------|
| without rules           | one rule a metric, all of weight 1, nothing mined, admitted or weighed: the same      |
|                         | evidence in equal parts (a backend that reads prose gets no rules at all)             |
| without prototypes      | none is recalled, so every metric is trusted alike; weights are fitted for that       |
| without reflection      | one look at the photograph, no second one and no revision                             |
| greedy                  | C = 0 in the rules' UCB: what has worked is used again, what is new is not tried      |
| without a tool          | the tool is not there, neither at exploration nor at judgement                        |
| true keypoints and mask | the tools' detector knows the truth (`eval.critics.true_detector`): headroom, no ablation     |

What a ablation cannot touch is shared: an agent without rules recalls the whole agent's prototypes, which hold how far
each metric agreed with the truth and no rule. Everything else explores for itself, on the same cases in the same
order, so that an ablation does not judge by weights that were fitted for what it lacks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.default import default_agent
from agent.image_embedding import PolicyEmbedder
from agent.nodes.re_observation import SECOND_LOOK
from agent.seed_rules import load_seed_rules
from agent.tools import load_tools
from agent.vlm import EmbeddedCritic, VLMBackend
from agent.vlm.wrappers.availability import AvailabilityMonitor
from common.progress import Stage
from eval.critics.evidence_cache import EvidenceCache
from eval.critics.exploration import CRITIQUE, DETECTOR, UCB, Exploration, eyes_of, open_to_explore, seen_by
from eval.critics.groups import LabelledGroup
from eval.critics.true_detector import TrueDetector, true_detections
from eval.critics.verdict_cache import Verdict, judge_with_cache
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import calibration_parts
from hmr.types import Detector
from memory.embed import TextEmbedder
from memory.folder import Memory, open_memory
from memory.prototypes import PrototypeMemory
from memory.rule import Predicate, Provenance, Rule
from memory.rules import RuleMemory
from memory.store import MemoryStore

__all__ = ["AGENT", "COMPONENTS", "AgentBench", "AgentVariant", "equal_rules", "metrics_of"]

COMPONENTS = ("rules", "prototypes", "reflection")
FAR_BELOW = -1e6  # a threshold that every value exceeds: the violation is then the value itself, graded


@dataclass(frozen=True)
class AgentVariant:
    """What is taken from the agent. Raises ValueError for a component or a tool that it does not have."""

    without: frozenset[str] = frozenset()
    without_tools: frozenset[str] = frozenset()
    greedy: bool = False
    true_detections: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(self.without - set(COMPONENTS)):
            raise ValueError(
                f"an agent can do without {', '.join(COMPONENTS)}; {', '.join(unknown)} is none of them"
            )
        there = [tool.name for tool in load_tools()] if self.without_tools else []
        if unknown := sorted(self.without_tools - set(there)):
            raise ValueError(
                f"the agent has no tool {unknown[0]!r} to do without; its tools are {', '.join(there)}"
            )

    @property
    def name(self) -> str:
        lacking = [*(part for part in COMPONENTS if part in self.without), *sorted(self.without_tools)]
        words = ["agent", *([f"without {' and '.join(lacking)}"] if lacking else [])]
        words += ["greedy"] * self.greedy + ["with true keypoints and mask"] * self.true_detections
        return " ".join(words)

    @property
    def explores_as(self) -> AgentVariant:
        """The variant whose memory this one judges from."""
        return dataclasses.replace(self, without=self.without - {"rules"})

    def to_json(self) -> dict[str, Any]:
        lacking = {"without": sorted(self.without), "without_tools": sorted(self.without_tools)}
        return {**dataclasses.asdict(self), **lacking}


AGENT = AgentVariant()


@dataclass(frozen=True)
class AgentBench:
    """Builds variants over one policy, one backend and one set of explored cases.

    `memory` is a folder that was explored before: then nothing is explored here, and ablations begin at judgement.
    """

    policy: DiffusionPolicy
    body: Body
    backend: VLMBackend
    embedder: TextEmbedder
    evidence: EvidenceCache
    calibration: Sequence[LabelledGroup]  # of lab-calibration, from its first row
    tests: Sequence[LabelledGroup]
    out: Path
    stage: Stage
    made_from: Mapping[str, Any] = field(default_factory=dict)  # digests that name an exploration
    memory: Path | None = None
    seed: int = 0
    ucb: float = UCB
    eyes: Detector | None = None  # of every variant; None: the embedded detector
    rules_per_case: int = (
        CritiqueSettings.rules_per_case
    )  # fewer than there are: then C decides which are tried
    critique: Mapping[str, Any] = field(
        default_factory=dict
    )  # other fields of CritiqueSettings, if not usual

    def part(self, *names: str) -> list[LabelledGroup]:
        """The calibration groups of these parts (`hmr.synthetic.splits.calibration_parts`)."""
        parts = calibration_parts(len(self.calibration))
        return [self.calibration[row] for name in names for row in parts[name]]

    @contextmanager
    def agent(self, variant: AgentVariant) -> Iterator[CritiqueAgent]:
        """The frozen agent of a variant, explored first where that has not been done.

        Raises ValueError where a memory was given for a greedy exploration, for one that was explored with other eyes,
        whose rules are weighed for those, and where the exploration waits for a backend that does not answer: half a
        memory judges otherwise than the whole one will.
        """
        folder = self._explored(variant.explores_as) if self.memory is None else self.memory
        if variant.greedy and self.memory is not None:
            raise ValueError("how a given memory was explored cannot be changed; leave out --memory")
        eyes, known = self._seen_by(variant)[DETECTOR], eyes_of(folder)
        if self.memory is not None and not variant.true_detections and known not in (None, eyes):
            raise ValueError(f"{folder} was explored with the detector {known}, and this asks for {eyes}")
        with self._open_frozen(folder) as memory:
            agent = self._build(variant, memory)
            if "rules" in variant.without:
                agent = self._without_rules(agent)
            yield agent

    def judge(
        self, name: str, agent: CritiqueAgent, groups: Sequence[LabelledGroup],
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Verdict]:  # fmt: skip
        """The verdicts of an agent of this bench, kept under its name and found there again."""
        path = self.out / "verdicts" / f"{name.replace(' ', '-')}.jsonl"
        return judge_with_cache(path, agent, self.policy.digest(), groups, progress)

    def measure(self, groups: Sequence[LabelledGroup]) -> list[Verdict]:
        """What the tools say of these groups, looked at again where the seed rules leave doubts, and verdicts of no
        account: no memory, no backend asked."""
        store, embedder = MemoryStore(":memory:"), PolicyEmbedder(self.policy)
        rules = RuleMemory(store, self.embedder)
        rules.add(load_seed_rules())
        memory = Memory(store, rules, PrototypeMemory(store, embedder.dim, embedder.name))
        agent = self._build(AGENT, memory)
        agent = dataclasses.replace(agent, backend=EmbeddedCritic())
        return self.judge("measurements", agent, groups)

    def _explored(self, variant: AgentVariant) -> Path:
        ucb = 0.0 if variant.greedy else self.ucb
        judge = {"backend": self.backend.name, "revision": self.backend.revision, "seed": self.seed}
        made_from = {**self.made_from, **variant.to_json(), **judge, "ucb": ucb}
        usual = {**seen_by(None), "rules_per_case": CritiqueSettings.rules_per_case}
        asked = {**self._seen_by(variant), "rules_per_case": self.rules_per_case}
        made_from |= {name: value for name, value in asked.items() if value != usual[name]}
        made_from |= {CRITIQUE: dict(self.critique)} if self.critique else {}
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
        groups = {group.labelled.sample.id: group.hypotheses for group in self.calibration}
        exploration = Exploration(
            self.out / "memory" / f"{variant.name.replace(' ', '-')}-{key}",
            made_from,
            [group.labelled for group in self.part("explore")],
            [group.labelled for group in self.part("admit")],
            lambda sample: groups[sample.id],
            variant.name,
        )
        if exploration.found() is None:
            listener = AvailabilityMonitor(self.backend)
            with open_to_explore(exploration.folder, self.policy, self.embedder, ucb) as memory:
                agent = dataclasses.replace(self._build(variant, memory), backend=listener)
                exploration.run(agent, self.stage)
            if listener.unheard and exploration.found() is None:
                raise ValueError(
                    f"{exploration.folder} is explored in part, and then nobody answered ({listener.unheard}); the "
                    "same command goes on"
                )
        return exploration.folder

    def _seen_by(self, variant: AgentVariant) -> dict[str, Any]:
        return {DETECTOR: TrueDetector.name} if variant.true_detections else seen_by(self.eyes)

    def _open_frozen(self, folder: Path) -> Memory:
        embedder = PolicyEmbedder(self.policy)
        return open_memory(folder, self.embedder, embedder.name, embedder.dim, frozen=True)

    def _build(self, variant: AgentVariant, memory: Memory) -> CritiqueAgent:
        settings = CritiqueSettings(seed=self.seed, rules_per_case=self.rules_per_case, **self.critique)
        if "reflection" in variant.without:
            settings = dataclasses.replace(settings, max_revisions=0)
        if "prototypes" in variant.without:
            settings = dataclasses.replace(settings, prototypes_per_case=0)
        agent = default_agent(self.policy, self.body, memory, settings=settings)
        agent = dataclasses.replace(agent, detector=self.eyes or agent.detector)
        kept = [tool for tool in agent.tools if tool.name not in variant.without_tools]
        agent = dataclasses.replace(agent, backend=self.backend, tools=self.evidence.around(kept))
        if not variant.true_detections:
            return agent
        truths = {
            group.labelled.sample.id: group.labelled.truth for group in (*self.calibration, *self.tests)
        }
        return dataclasses.replace(agent, detector=true_detections(truths, self.policy, self.body))

    def _without_rules(self, agent: CritiqueAgent) -> CritiqueAgent:
        """For the embedded critic equal rules on whatever the tools measure; for one that reads prose, none."""
        rules = RuleMemory(MemoryStore(":memory:"), self.embedder)
        if self.backend.name == EmbeddedCritic.name:
            rules.add(equal_rules(set(metrics_of(self.measure(self.part("admit"))))))
        settings = dataclasses.replace(agent.settings, rules_per_case=max(1, len(rules)))
        return dataclasses.replace(agent, rules=rules, settings=settings)


def metrics_of(critiques: Sequence[Verdict]) -> list[str]:
    """What was measured before anything was scored."""
    return sorted({item.metric for seen in critiques for item in seen.evidence if item.tool != SECOND_LOOK})


def equal_rules(metrics: set[str]) -> list[Rule]:
    """One rule a metric, its whole value graded, all of one weight."""
    provenance = Provenance(kind="seed", backend="equal weights", case_id=None)
    return [
        Rule.create(f"The less {metric}, the better.", [], provenance, Predicate(metric, ">", FAR_BELOW, 1.0))
        for metric in sorted(metrics)
    ]
