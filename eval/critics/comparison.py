"""Compares critics on the same groups; `meshcritic critic-eval` runs `evaluate_critics`.

The base policy decides on the splits (`hmr.synthetic.splits.GAPS`): `wild-test` for the shipped one, `street-test` for
`studio`. Critics that learn do so on the calibration split of the base's own domain alone (`eval.critics.ablations`,
`eval.critics.reference_critics`). Groups, evidence, explored memories, verdicts and the fitted scorer are cached in the
run's folder by their inputs, so that a second run or another critic computes only what is missing.

    OUT/critics.parquet    the scores of the last run, one row per critic and group

Agreement is defined in `eval.critics.agreement`. The agent's lead over another critic is the mean over groups of the
difference of Spearman's rho, with its 95 % bootstrap interval over groups; above zero the agent is better. Groups for
which either critic has no correlation are left out of the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from agent.agreement import group_spearman
from agent.context import CritiqueSettings
from agent.vlm import VLMBackend
from common.progress import Stage
from common.storage.files import PathLike
from eval.benchmark.intervals import Interval, difference_interval
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.ablations import AGENT, AgentBench, AgentVariant, metrics_of
from eval.critics.agreement import CriticAgreement, by_group, critic_agreement, short_name
from eval.critics.exploration import UCB, check_ucb, load_other_detector
from eval.critics.files.evidence_cache import EvidenceCache
from eval.critics.files.result_files import write_critics
from eval.critics.files.verdict_cache import CriticVerdict
from eval.critics.groups import CriticImages, LabelledGroup, LabelledSet, draw_groups, labelled_scenes
from eval.critics.kinds import (
    AGENT_ALONE,
    CONSENSUS,
    CRITICS,
    GREEDY,
    HMR_SCORER,
    RANDOM,
    RANK_NET,
    Critic,
    CriticChoice,
    all_variants,
)
from eval.critics.reference_critics.baselines import (
    fitted_hmr_scorer,
    fitted_rank_net,
    metric_scores,
    random_scores,
    rank_net_scores,
)
from hmr.body.model import body_fingerprint, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split, gap_of
from memory.folder import store_path
from memory.vectors.embed import load_text_embedder

__all__ = [
    "CriticComparison",
    "CriticEvalSettings",
    "CriticResult",
    "OpenedBench",
    "agreements_json",
    "critic_result",
    "evaluate_critics",
    "numbers",
    "open_bench",
    "rho_difference",
]

CONSENSUS_METRIC = "group_consensus_mm"


@dataclass(frozen=True, kw_only=True)
class CriticEvalSettings:
    """Settings of `meshcritic critic-eval`. Raises ValueError for an unknown critic and for settings that do not apply
    to it, FileNotFoundError for a missing folder."""

    critic: str = "agent"  # a key of `eval.critics.kinds.CRITICS`
    base: str = "shipped"  # a key of `hmr.synthetic.splits.GAPS`, which decides on the splits
    ablation: AgentVariant = AGENT
    images: int = 100
    samples: int = 20
    calibration: int = (
        128  # scenes of the calibration split: half are explored, a quarter decides on the admission of rules
    )
    seed: int = 0
    motion: Path | None = None
    body: Path | None = None  # file of the body model of scenes and hypotheses; None: the embedded one
    memory: Path | None = None
    ucb: float = UCB
    detector: str = EmbeddedDetector.name
    rules_per_case: int = CritiqueSettings.rules_per_case
    critique: Mapping[str, Any] = field(default_factory=dict)  # other fields of CritiqueSettings

    def __post_init__(self) -> None:
        gap_of(self.base)
        if self.critic not in CRITICS:
            raise ValueError(f"no critic is called {self.critic!r}; there are {', '.join(CRITICS)}")
        if self.choice != AGENT_ALONE and self.ablation != AGENT:
            raise ValueError(
                f"components can be removed from the agent only, not from the critic {self.critic!r}"
            )
        if self.motion is not None and not self.motion.exists():
            raise FileNotFoundError(f"{self.motion}: there is no such folder of AMASS npz files")
        check_ucb(self.ucb)
        if self.detector != EmbeddedDetector.name and not self.choice.uses_detector:
            raise ValueError(f"--detector applies to critics that use a detector; {self.critic} does not")
        if self.memory is not None:
            self._check_memory(self.memory)

    def _check_memory(self, memory: Path) -> None:
        if not store_path(memory).is_file():
            raise FileNotFoundError(f"{memory}: there is no memory here")
        if self.choice.agent == GREEDY or self.ucb != UCB:
            raise ValueError("the exploration of a given memory cannot be changed; leave out --memory")

    @property
    def choice(self) -> CriticChoice:
        return CRITICS[self.critic]

    @property
    def learns_on_lab(self) -> bool:
        """Whether any requested critic learns on the calibration scenes of this run."""
        return self.memory is None or self.choice.fits_baseline


@dataclass(frozen=True)
class CriticResult:
    """The agreement of one critic with each of ERROR_METRICS, and the agent's lead over it."""

    name: str
    agreements: Mapping[str, CriticAgreement]
    agent_lead: Mapping[str, Interval | None] | None  # rho of the agent minus its own; None without an agent

    def to_json(self) -> dict[str, Any]:
        """`agreements_json`, and the agent's lead if there is one."""
        lead = {short_name(error): numbers(interval) for error, interval in (self.agent_lead or {}).items()}
        return {**agreements_json(self.agreements), **({"agent_minus_this": lead} if lead else {})}


@dataclass(frozen=True)
class CriticComparison:
    """Results of all requested critics on one benchmark."""

    critics: Mapping[Critic, CriticResult]
    evidence: Mapping[str, CriticResult]  # each metric of the tools as a critic; empty without `all`
    benchmark: str  # content hash of the test scenes
    calibration: str | None  # of the calibration scenes; None if no critic learned on them
    base_policy: str

    def to_json(self) -> dict[str, Any]:
        """The result of a single critic at the top level; several critics by name, with each metric alone."""
        hashes = {name: getattr(self, name) for name in ("benchmark", "calibration", "base_policy")}
        if len(self.critics) == 1:
            (result,) = self.critics.values()
            return {"critic": result.name, **result.to_json(), **hashes}
        tables = {"critics": self.critics, "evidence": self.evidence}
        by_name = {
            key: {result.name: result.to_json() for result in table.values()} for key, table in tables.items()
        }
        return {**by_name, **hashes}


def evaluate_critics(
    policy: DiffusionPolicy,
    backend: VLMBackend,
    settings: CriticEvalSettings,
    out: PathLike,
    stage: Stage,
    *,
    workers: int = 1,
    images: CriticImages | None = None,
) -> CriticComparison:
    """Draw scenes and groups, explore, fit and score as the settings ask, using what is cached in `out`.

    images: used instead of the scenes and the detector of the settings. Raises ValueError for a critic that does not
    run on the policy's device.
    """
    with open_bench(policy, backend, settings, Path(out), stage, workers, images) as opened:
        critics, evidence_alone = _Evaluation(opened.bench, settings).run()
    return CriticComparison(
        critics, evidence_alone, opened.benchmark, opened.calibration, opened.bench.policy.digest()
    )


@dataclass(frozen=True)
class OpenedBench:
    """A bench with its groups, and the content hashes of their scenes."""

    bench: AgentBench
    benchmark: str  # as in `CriticComparison`
    calibration: str | None


@contextmanager
def open_bench(
    policy: DiffusionPolicy,
    backend: VLMBackend,
    settings: CriticEvalSettings,
    out: Path,
    stage: Stage,
    workers: int,
    images: CriticImages | None = None,
) -> Iterator[OpenedBench]:
    """Draws the groups of the settings, using what is cached in `out`; arguments and errors: `evaluate_critics`."""
    if HMR_SCORER in settings.choice.baselines and policy.device.type != "cpu":  # its features are kept there
        raise ValueError(f"--critic {settings.critic} fits hmr-scorer, which needs --device cpu")
    images = images or _scenes(policy, settings, out, stage, workers)

    def groups(labelled: LabelledSet) -> list[LabelledGroup]:
        tick = stage(f"groups of {settings.samples} on {labelled.name}", len(labelled.cases))
        return draw_groups(
            policy, images.body, labelled,
            size=settings.samples, seed=settings.seed, cache=out / "groups", progress=tick,
        )  # fmt: skip

    tests, calibration = groups(images.tests), groups(images.calibration)
    lab = images.calibration.digest
    with EvidenceCache(out / "evidence.jsonl") as evidence:
        bench = AgentBench(
            policy=policy,
            body=images.body,
            backend=backend,
            embedder=load_text_embedder(),
            evidence=evidence,
            calibration=calibration,
            tests=tests,
            out=out,
            stage=stage,
            fingerprint={
                "policy": policy.digest(),
                "scenes": lab,
                "samples": settings.samples,
                **body_fingerprint(settings.body),
            },
            memory=settings.memory,
            seed=settings.seed,
            ucb=settings.ucb,
            detector=images.detector,
            rules_per_case=settings.rules_per_case,
            critique_settings=settings.critique,
        )
        yield OpenedBench(bench, images.tests.digest, lab if settings.learns_on_lab else None)


def _scenes(
    policy: DiffusionPolicy, settings: CriticEvalSettings, out: Path, stage: Stage, workers: int
) -> CriticImages:
    """The scenes of the settings: of the test split, and of the calibration split. Raises ValueError for a policy that
    was trained with another body."""
    body = load_body(settings.body)
    policy.require_body(body)

    def drawn(split: str, count: int, motion: Path | None) -> LabelledSet:
        tick = stage(f"drawing {count} scenes of {split}", count)
        folder = draw_split(
            split, out / "scenes", count, motion=motion, body=settings.body, workers=workers, progress=tick
        )
        return labelled_scenes(folder)

    gap = gap_of(settings.base)
    return CriticImages(
        drawn(gap.test, settings.images, settings.motion),
        drawn(gap.calibration, settings.calibration, None),
        body,
        load_other_detector(settings.detector, policy),
    )


class _Evaluation:
    """Runs the requested critics on the bench's test groups."""

    def __init__(self, bench: AgentBench, settings: CriticEvalSettings) -> None:
        self.bench, self.settings = bench, settings

    def run(self) -> tuple[dict[Critic, CriticResult], dict[str, CriticResult]]:
        """Results by critic, the agent first; and by metric of the tools if all critics were requested."""
        choice = self.settings.choice
        scored: dict[Critic, list[ScoredGroup]] = {
            variant: self._scored(found, lambda verdict: verdict.scores)
            for variant, found in self.verdicts.items()
        }
        baselines = {  # in the order of results
            RANK_NET: self._rank_net,
            CONSENSUS: partial(self._metric, CONSENSUS_METRIC),
            HMR_SCORER: self._hmr_scorer,
            RANDOM: self._random,
        }
        scored |= {critic: scores() for critic, scores in baselines.items() if critic in choice.baselines}
        metrics = metrics_of(self.measured) if choice.in_parts else []
        alone = {metric: self._metric(metric) for metric in metrics}
        by_name = {critic.name: groups for critic, groups in scored.items()}
        write_critics(self.bench.out / "critics.parquet", {**by_name, **alone})
        reference = scored.get(AGENT)
        return (
            {critic: critic_result(critic.name, groups, reference) for critic, groups in scored.items()},
            {name: critic_result(name, groups, reference) for name, groups in alone.items()},
        )

    @cached_property
    def verdicts(self) -> dict[AgentVariant, list[CriticVerdict]]:
        """Of the requested variants of the agent."""
        choice = self.settings.choice
        if choice.in_parts:
            variants = all_variants(with_greedy=self.settings.memory is None)
        else:
            agent = self.settings.ablation if choice == AGENT_ALONE else choice.agent
            variants = [agent] if agent else []
        return {variant: self._critique(variant) for variant in variants}

    @cached_property
    def measured(self) -> list[CriticVerdict]:
        """With the evidence that baselines read."""
        return self.verdicts.get(AGENT) or self.bench.measure(self.bench.tests)

    def _critique(self, variant: AgentVariant) -> list[CriticVerdict]:
        groups = self.bench.tests
        with self.bench.agent(variant) as agent:
            tick = self.bench.stage(f"scoring {len(groups)} groups: {variant.name}", len(groups))
            return self.bench.critique(variant.name, agent, groups, tick)

    def _rank_net(self) -> list[ScoredGroup]:
        tests = self.measured
        lab = self.bench.part("explore", "admit")
        measured = self.bench.measure(lab)
        metrics = metrics_of(measured)
        network = fitted_rank_net(lab, measured, metrics, self.settings.seed)
        return self._scored(tests, lambda verdict: rank_net_scores(network, verdict, metrics))

    def _metric(self, metric: str) -> list[ScoredGroup]:
        return self._scored(self.measured, partial(metric_scores, metric=metric))

    def _random(self) -> list[ScoredGroup]:
        return [random_scores(group, self.settings.seed) for group in self.bench.tests]

    def _scored(
        self, verdicts: Sequence[CriticVerdict], scores: Callable[[CriticVerdict], Sequence[float | None]]
    ) -> list[ScoredGroup]:
        return [
            group.scored(scores(verdict)) for group, verdict in zip(self.bench.tests, verdicts, strict=True)
        ]

    def _hmr_scorer(self) -> list[ScoredGroup]:
        scorer, groups = fitted_hmr_scorer(self.bench), self.bench.tests
        tick = self.bench.stage(f"scoring {len(groups)} groups: {scorer.name}", len(groups))
        scored = []
        for done, group in enumerate(groups, start=1):
            scored.append(group.scored(scorer.score(group.labelled.sample, group.hypotheses)))
            tick(done)
        return scored


def critic_result(
    name: str, groups: Sequence[ScoredGroup], reference: Sequence[ScoredGroup] | None
) -> CriticResult:
    """A critic's agreements, and the lead of `reference` over it: the agent's scores of the same groups, which has no
    lead over itself."""
    agreements = {error: critic_agreement(groups, error) for error in ERROR_METRICS}
    if reference is None or reference is groups:
        return CriticResult(name, agreements, None)
    return CriticResult(
        name, agreements, {error: rho_difference(reference, groups, error) for error in ERROR_METRICS}
    )


def rho_difference(
    first: Sequence[ScoredGroup], second: Sequence[ScoredGroup], metric: str
) -> Interval | None:
    """The mean over groups of the difference of Spearman's rho of two critics of the same groups, with its interval;
    above zero the first one is better. Groups for which either has no correlation are left out; None if few remain."""
    return difference_interval(
        by_group(first, metric, group_spearman) - by_group(second, metric, group_spearman)
    )


def agreements_json(agreements: Mapping[str, CriticAgreement]) -> dict[str, Any]:
    """`srcc`, `krcc`, `plcc` by error, each [value, low, high] or None, and the share without a score."""
    figures: dict[str, Any] = {
        measure: {short_name(error): numbers(getattr(found, measure)) for error, found in agreements.items()}
        for measure in ("srcc", "krcc", "plcc")
    }
    any_error = next(iter(agreements.values()))
    return {**figures, **{name: getattr(any_error, name) for name in ("none_rate", "groups_used", "groups")}}


def numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.mean, interval.low, interval.high]
