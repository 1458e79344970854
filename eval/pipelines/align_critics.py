"""Opens the critic that the settings of an alignment name; one that learns does so on the calibration split alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.tracing.records import Trace
from agent.vlm import VLMBackend
from agent.vlm.options import open_backend
from common.progress import Stage
from eval.critics.ablations import AgentBench, AgentVariant
from eval.critics.files.evidence_cache import EvidenceCache
from eval.critics.groups import LabelledGroup, LabelledSet, draw_groups, labelled_scenes
from eval.critics.reference_critics.baselines import fitted_hmr_scorer
from eval.pipelines.align_settings import HMR_SCORER, REWARD, AlignSettings
from hmr.body.model import Body, body_fingerprint
from hmr.policy.checkpoint import load_reader
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_samples, read_truth
from hmr.types import Detector, Scorer
from memory.vectors.embed import load_text_embedder
from rl.scorers.noisy_reading import NOISY_READING, fitted_reading
from rl.scorers.penalties import PenalisedAgent
from rl.scorers.rewards import load_reward
from rl.scorers.truth import NoisyTruthScorer

__all__ = ["agent_of", "detector_of_search", "open_bench", "open_scorer"]

TRACE = "trace.jsonl"


def open_scorer(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    *,
    scenes: Path | None,
    out: Path,
    stage: Stage,
    stack: ExitStack,
    backend: VLMBackend | None = None,
    detector: Detector | None = None,
    calibration: Callable[[], LabelledSet] | None = None,
) -> Scorer:
    """The critic of the settings (the base critic of a shuffled one), valid until `stack` is closed.

    scenes: the scored set, from which a noisy truth reads the truth; other critics do not open it.
    out: folder of what a critic learned, and of an agent's trace.
    backend, detector: used instead of those that the settings name; the detector None is the embedded one.
    calibration: labelled images for a critic that learns. Default: scenes of the calibration split of the settings.

    Raises ValueError for an unknown critic, and what its parts raise.
    """
    if settings.uses_truth:
        if scenes is None:
            raise ValueError(
                f"the critic {settings.critic} reads the truth of scenes, which these images are not"
            )
        truths = read_truth(scenes)
        if settings.base_critic.startswith(NOISY_READING):
            samples, seed = read_samples(scenes), settings.rounds.seed
            return fitted_reading(policy, body, samples, truths.__getitem__, settings.base_critic, seed)
        return NoisyTruthScorer(body, truths.__getitem__, settings.srcc(), settings.rounds.seed)
    if settings.base_critic.startswith(REWARD):
        return load_reward(settings.base_critic.removeprefix(REWARD), body)
    bench = open_bench(
        policy, body, settings, out=out, stage=stage, stack=stack, backend=backend, detector=detector,
        calibration=calibration,
    )  # fmt: skip
    if settings.base_critic == HMR_SCORER:
        return fitted_hmr_scorer(bench)
    variant = AgentVariant(without_tools=frozenset(settings.without_tools))
    agent = stack.enter_context(bench.agent(variant))
    if settings.trace:
        agent = replace(agent, trace=stack.enter_context(Trace(out / TRACE)))
    return PenalisedAgent(agent, settings.penalties) if settings.penalties else agent


def agent_of(scorer: Scorer) -> CritiqueAgent | None:
    """The agent that scores; None for another critic."""
    if isinstance(scorer, PenalisedAgent):
        return scorer.agent
    return scorer if isinstance(scorer, CritiqueAgent) else None


def detector_of_search(
    policy: DiffusionPolicy, body: Body, scorer: Scorer, detector: Detector | None
) -> Detector | None:
    """What a search (`rl.preferences.search`) reads the images with; None: what its agent does. Other critics read
    none, so their search has `detector`, or else the policy's, with the 3D joints that an agent would have."""
    if agent_of(scorer) is not None:
        return None
    return WithJoints3D(detector or policy.detector, load_reader(str(policy.device)), body)


def open_bench(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    *,
    out: Path,
    stage: Stage,
    stack: ExitStack,
    backend: VLMBackend | None = None,
    detector: Detector | None = None,
    calibration: Callable[[], LabelledSet] | None = None,
    tests: Sequence[LabelledGroup] = (),
) -> AgentBench:
    """Builder of critics that learn, valid until `stack` is closed; arguments as in `open_scorer`.

    tests: groups to score, whose truth the ground-truth detector needs.
    """
    if backend is None:
        backend = stack.enter_context(
            open_backend(settings.backend_options().keeping_replies_in(out))
        ).backend
    groups, fingerprint = _calibration_groups(policy, body, settings, calibration, out, stage)
    return AgentBench(
        policy=policy,
        body=body,
        backend=backend,
        embedder=load_text_embedder(),
        evidence=stack.enter_context(EvidenceCache(out / "evidence.jsonl")),
        calibration=groups,
        tests=tests,
        out=out,
        stage=stage,
        fingerprint=fingerprint,
        memory=settings.memory,
        seed=settings.rounds.seed,
        detector=detector,
        critique_settings=settings.critique,
    )


def _calibration_groups(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    given: Callable[[], LabelledSet] | None,
    out: Path,
    stage: Stage,
) -> tuple[list[LabelledGroup], dict[str, Any]]:
    """The groups on which a critic learns, and their fingerprint; none for an explored memory."""
    if settings.memory is not None and settings.base_critic != HMR_SCORER:
        return [], {}
    labelled = given() if given else _calibration_scenes(settings, out, stage)
    size, seed = settings.rounds.group_size, settings.rounds.seed
    tick = stage(f"groups of {size} on {labelled.name}", len(labelled.cases))
    groups = draw_groups(policy, body, labelled, size=size, seed=seed, cache=out / "groups", progress=tick)
    made_from = {"policy": policy.digest(), "scenes": labelled.digest, "samples": size}
    return groups, {**made_from, **body_fingerprint(settings.body)}


def _calibration_scenes(settings: AlignSettings, out: Path, stage: Stage) -> LabelledSet:
    split = settings.gap.calibration
    tick = stage(f"drawing {settings.calibration} scenes of {split}", settings.calibration)
    scenes = draw_split(split, out / "scenes", settings.calibration, body=settings.body, progress=tick)
    return labelled_scenes(scenes)
