"""Critics on the same wild groups: how well each ranks what it cannot measure, and what each part of the agent adds.

The scenes are `wild-test`; everything that learns does so on `lab-calibration` alone (`eval.critics.ablations`,
`eval.critics.baselines`). Groups, measurements, explored memories, verdicts and the fitted scorer are kept under the run's
folder, each by a key of what shaped it, so that a second run, or another critic, does only what is new.

Agreement is `eval.critics.agreement`'s. A difference is the agent's Spearman's rho less the other's on the same group, averaged
over groups, its 95 % interval by the bootstrap over groups; above zero the agent is better. A group where either says
nothing is in no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent.agreement import group_spearman
from agent.context import CritiqueSettings
from agent.tools import load_tools
from agent.vlm import VLMBackend
from common.progress import Stage
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.ablations import AGENT, COMPONENTS, AgentBench, AgentVariant, metrics_of
from eval.critics.agreement import CriticAgreement, critic_agreement
from eval.critics.baselines import (
    fitted_hmr_scorer,
    fitted_rank_net,
    metric_scores,
    random_scores,
    rank_net_scores,
)
from eval.critics.evidence_cache import EvidenceCache
from eval.critics.exploration import UCB, check_ucb, detector_of
from eval.critics.groups import draw_groups
from eval.critics.verdict_cache import Verdict
from hmr.body.model import load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import set_digest
from memory.embed import load_text_embedder
from memory.folder import store_path

__all__ = ["CRITICS", "CriticEval", "CriticEvalSettings", "CriticFigures", "critic_eval", "figures_of"]

CRITICS = ("agent", "greedy", "true-detections", "hmr-scorer", "ranknet", "consensus", "random", "all")
FITTED = ("hmr-scorer", "ranknet", "all")  # by the lab scenes, whatever memory the agent is given
LOOKING = ("agent", "greedy", "ranknet", "all")  # through the detector that is asked for
CONSENSUS = "group_consensus_mm"


@dataclass(frozen=True)
class CriticEvalSettings:
    """What is asked. Raises ValueError for a critic that is none, and for ablations of one that has none."""

    critic: str = "agent"
    ablation: AgentVariant = AGENT
    images: int = 100
    samples: int = 20
    calibration: int = 128  # scenes of lab-calibration: half explored, a quarter to admit rules
    seed: int = 0
    motion: Path | None = None
    memory: Path | None = None
    ucb: float = UCB
    detector: str = EmbeddedDetector.name
    rules_per_case: int = CritiqueSettings.rules_per_case
    critique: Mapping[str, Any] = field(
        default_factory=dict
    )  # other fields of CritiqueSettings, if not usual

    def __post_init__(self) -> None:
        if self.critic not in CRITICS:
            raise ValueError(f"no critic is called {self.critic!r}; there are {', '.join(CRITICS)}")
        if self.critic != "agent" and self.ablation != AGENT:
            raise ValueError(f"only the agent can do without something, not the critic {self.critic!r}")
        if self.motion is not None and not self.motion.exists():
            raise FileNotFoundError(f"{self.motion}: there is no such folder of AMASS npz files")
        check_ucb(self.ucb)
        if self.detector != EmbeddedDetector.name and self.critic not in LOOKING:
            raise ValueError(f"--detector is for a critic that looks, and {self.critic} does not")
        if self.memory is not None:
            self._check_memory(self.memory)

    def _check_memory(self, memory: Path) -> None:
        if not store_path(memory).is_file():
            raise FileNotFoundError(f"{memory}: there is no memory here")
        if self.critic == "greedy" or self.ucb != UCB:
            raise ValueError("how a given memory was explored cannot be changed; leave out --memory")

    @property
    def learns_on_lab(self) -> bool:
        """Whether anything asked for learns on the calibration scenes of this run."""
        return self.memory is None or self.critic in FITTED


@dataclass(frozen=True)
class CriticFigures:
    """One critic's agreement with each of ERROR_METRICS, and the agent's lead over it."""

    name: str
    agreements: Mapping[str, CriticAgreement]
    behind: (
        Mapping[str, Interval | None] | None
    )  # rho of the agent less its own; None where no agent was asked

    def to_json(self) -> dict[str, Any]:
        """`srcc`, `krcc`, `plcc` by error, each [value, low, high] or None, and how much was left unscored."""
        figures: dict[str, Any] = {
            measure: {
                _short(error): _numbers(getattr(found, measure)) for error, found in self.agreements.items()
            }
            for measure in ("srcc", "krcc", "plcc")
        }
        any_error = next(iter(self.agreements.values()))
        counts = {name: getattr(any_error, name) for name in ("none_rate", "groups_used", "groups")}
        lead = {} if self.behind is None else {_short(error): _numbers(i) for error, i in self.behind.items()}
        return {**figures, **counts, **({"agent_minus_this": lead} if lead else {})}


@dataclass(frozen=True)
class CriticEval:
    """What was found, and on what."""

    critics: Mapping[str, CriticFigures]
    evidence: Mapping[
        str, CriticFigures
    ]  # each metric of the tools as a critic of its own; empty but for `all`
    benchmark: str  # content hash of the wild scenes
    calibration: str | None  # of the lab scenes; None where nothing learned on them
    base_policy: str

    def to_json(self) -> dict[str, Any]:
        """One critic: its figures at the top. Several: by name, beside each metric alone."""
        hashes = {name: getattr(self, name) for name in ("benchmark", "calibration", "base_policy")}
        if len(self.critics) == 1:
            ((name, figures),) = self.critics.items()
            return {"critic": name, **figures.to_json(), **hashes}
        tables = {
            "critics": {name: figures.to_json() for name, figures in self.critics.items()},
            "evidence": {name: figures.to_json() for name, figures in self.evidence.items()},
        }
        return {**tables, **hashes}


def critic_eval(
    policy: DiffusionPolicy,
    backend: VLMBackend,
    settings: CriticEvalSettings,
    out: Path,
    stage: Stage,
    workers: int = 1,
) -> CriticEval:
    """Draw, explore, fit and judge whatever the settings ask for and `out` does not hold yet."""
    count = {"wild-test": settings.images, "lab-calibration": settings.calibration}
    scenes, groups, body = {}, {}, load_body()
    eyes = detector_of(settings.detector, policy, body)
    for split, motion in (("wild-test", settings.motion), ("lab-calibration", None)):
        title = f"{count[split]} scenes of {split}"
        tick = stage(f"drawing {title}", count[split])
        folder = draw_split(
            split, out / "scenes", count[split], motion=motion, workers=workers, progress=tick
        )
        tick = stage(f"groups of {settings.samples} on {title}", count[split])
        scenes[split] = folder
        groups[split] = draw_groups(
            policy, body, folder, settings.samples, settings.seed, out / "groups", tick
        )
    made_from = {
        "policy": policy.digest(),
        "scenes": set_digest(scenes["lab-calibration"]),
        "samples": settings.samples,
    }
    with EvidenceCache(out / "evidence.jsonl") as evidence:
        bench = AgentBench(
            policy, body, backend, load_text_embedder(), evidence, groups["lab-calibration"],
            groups["wild-test"], out, stage, made_from, settings.memory, settings.seed, settings.ucb, eyes,
            settings.rules_per_case, settings.critique,
        )  # fmt: skip
        critics, alone = CriticComparison(bench, settings).figures()
    return CriticEval(
        critics,
        alone,
        set_digest(scenes["wild-test"]),
        set_digest(scenes["lab-calibration"]) if settings.learns_on_lab else None,
        policy.digest(),
    )


class CriticComparison:
    """Every critic asked for, on the bench's groups."""

    def __init__(self, bench: AgentBench, settings: CriticEvalSettings) -> None:
        self.bench, self.settings = bench, settings

    def figures(self) -> tuple[dict[str, CriticFigures], dict[str, CriticFigures]]:
        """By name, from the agent down; and the tools' metrics, where all critics were asked for."""
        asked = self.settings.critic
        variants = list(self._variants())
        judged = {variant.name: self._judge(variant) for variant in variants}
        scored = {
            name: [group.scored(seen.scores) for group, seen in zip(self.bench.tests, critiques, strict=True)]
            for name, critiques in judged.items()
        }
        alone: dict[str, list[ScoredGroup]] = {}
        if asked in ("ranknet", "consensus", "all"):
            critiques = judged.get(AGENT.name) or self.bench.measure(self.bench.tests)
            scored |= self._from_evidence(critiques, ("ranknet", "consensus") if asked == "all" else (asked,))
            alone = self._metrics_alone(critiques) if asked == "all" else {}
        if asked in ("hmr-scorer", "all"):
            scored["hmr-scorer"] = self._hmr_scorer()
        if asked in ("random", "all"):
            scored["random"] = [random_scores(group, self.settings.seed) for group in self.bench.tests]
        reference = scored.get(AGENT.name)
        return (
            {name: figures_of(name, groups, reference) for name, groups in scored.items()},
            {name: figures_of(name, groups, reference) for name, groups in alone.items()},
        )

    def _variants(self) -> Iterator[AgentVariant]:
        asked = self.settings.critic
        if asked == "agent":
            yield self.settings.ablation
        if asked == "all":
            yield AGENT
            yield from (AgentVariant(without=frozenset({part})) for part in COMPONENTS)
        if asked == "greedy" or (asked == "all" and self.settings.memory is None):
            yield AgentVariant(greedy=True)
        if asked == "all":
            yield from (AgentVariant(without_tools=frozenset({tool.name})) for tool in load_tools())
        if asked in ("true-detections", "all"):
            yield AgentVariant(true_detections=True)

    def _judge(self, variant: AgentVariant) -> list[Verdict]:
        groups = self.bench.tests
        with self.bench.agent(variant) as agent:
            tick = self.bench.stage(f"judging {len(groups)} groups: {variant.name}", len(groups))
            return self.bench.judge(variant.name, agent, groups, tick)

    def _from_evidence(
        self, critiques: Sequence[Verdict], names: Sequence[str]
    ) -> dict[str, list[ScoredGroup]]:
        scored = {}
        if "ranknet" in names:
            lab = self.bench.part("explore", "admit")
            taught = self.bench.measure(lab)
            metrics = metrics_of(taught)
            network = fitted_rank_net(lab, taught, metrics, self.settings.seed)
            scored["ranknet"] = self._scored(critiques, lambda seen: rank_net_scores(network, seen, metrics))
        if "consensus" in names:
            scored["consensus"] = self._scored(critiques, lambda seen: metric_scores(seen, CONSENSUS))
        return scored

    def _metrics_alone(self, critiques: Sequence[Verdict]) -> dict[str, list[ScoredGroup]]:
        return {
            metric: self._scored(critiques, lambda seen, metric=metric: metric_scores(seen, metric))
            for metric in metrics_of(critiques)
        }

    def _scored(
        self,
        critiques: Sequence[Verdict],
        scores: Callable[[Verdict], Sequence[float | None]],
    ) -> list[ScoredGroup]:
        return [group.scored(scores(seen)) for group, seen in zip(self.bench.tests, critiques, strict=True)]

    def _hmr_scorer(self) -> list[ScoredGroup]:
        scorer, groups = fitted_hmr_scorer(self.bench), self.bench.tests
        tick = self.bench.stage(f"judging {len(groups)} groups: {scorer.name}", len(groups))
        scored = []
        for done, group in enumerate(groups, start=1):
            scored.append(group.scored(scorer.score(group.labelled.sample, group.hypotheses)))
            tick(done)
        return scored


def figures_of(
    name: str, groups: Sequence[ScoredGroup], reference: Sequence[ScoredGroup] | None
) -> CriticFigures:
    """A critic's agreements, and the lead over it of `reference`, the agent's verdicts on the same groups."""
    agreements = {error: critic_agreement(groups, error) for error in ERROR_METRICS}
    if reference is None or name == AGENT.name:
        return CriticFigures(name, agreements, None)
    behind = {
        error: bootstrap_mean((_by_group(reference, error) - _by_group(groups, error))[None])
        for error in ERROR_METRICS
    }
    return CriticFigures(name, agreements, behind)


def _by_group(groups: Sequence[ScoredGroup], error: str) -> np.ndarray:
    found = [group_spearman(group.scores, group.errors_mm[error].tolist()) for group in groups]
    return np.array([np.nan if rho is None else rho for rho in found])


def _short(error: str) -> str:
    return error.removesuffix("_mm")


def _numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.mean, interval.low, interval.high]
