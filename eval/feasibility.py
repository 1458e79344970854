"""What the signal can carry: each tool alone, a ceiling over all of them, a floor, the headroom, and an oracle.

Spearman's rho per group against MPJPE on wild groups of the base policy; then alignment on the true errors (stamped
`uses_truth`) beside the base whose starting noise is reduced until its spread is the same, because a narrower spread
lowers the mean error by itself. `docs/feasibility.md` holds the figures and the command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import root_scalar
from torch import Tensor

from agent.agent import CritiqueAgent
from agent.agreement import group_spearman
from agent.default import default_agent, open_default_memory
from agent.types import GroupCritique
from eval.demo import Stage
from eval.intervals import Interval, bootstrap_mean
from eval.protocol import Report, evaluate_policy
from eval.rank_net import ToolRankNet, standardised
from eval.true_detector import TrueDetector
from hmr.body import Body
from hmr.metrics import mpjpe_mm
from hmr.policy import DiffusionPolicy, Features
from hmr.types import Hypotheses, Labelled, Sample
from rl.config import GroupPreferenceConfig
from rl.preferences import build_preferences, load_preferences
from rl.scorers import TruthScorer
from rl.seeding import derive_generator
from rl.trainer import align

__all__ = ["JudgedGroup", "Quieter", "align_on_truth", "judge", "rank_agreements", "spread_matched"]

GROUP_SIZE = 20


@dataclass(frozen=True)
class JudgedGroup:
    critique: GroupCritique
    errors_mm: tuple[float, ...]

    def values(self, metrics: Sequence[str]) -> Float[Tensor, "group metrics"]:
        return standardised(self.critique.evidence, metrics, len(self.errors_mm))


def judge(
    policy: DiffusionPolicy,
    body: Body,
    cases: Sequence[Labelled],
    memory: Path,
    stage: Stage,
    title: str,
    true_detections: bool = False,
) -> list[JudgedGroup]:
    """Critiques of one group an image by the explored agent, and the errors it could not see."""
    tick = stage(title, len(cases))
    judged = []
    with open_default_memory(memory, policy, frozen=True) as opened:
        agent: CritiqueAgent = default_agent(policy, body, opened)
        if true_detections:
            truths = {case.sample.id: case.truth for case in cases}
            agent = dataclasses.replace(agent, detector=TrueDetector(truths))
        for done, case in enumerate(cases, start=1):
            generator = derive_generator("feasibility", case.sample.id)
            group = policy.sample(policy.encode([case.sample]), GROUP_SIZE, generator)[0]
            errors = mpjpe_mm(body.joints(group.params), case.truth.joints_cam_m)
            judged.append(JudgedGroup(agent.critique(case.sample, group), tuple(errors.tolist())))
            tick(done)
    return judged


def rank_agreements(fit: Sequence[JudgedGroup], test: Sequence[JudgedGroup]) -> dict[str, Interval | None]:
    """Mean SRCC on `test`: each metric alone, the RankNet fitted on `fit`, and the agent."""
    metrics = sorted(
        {item.metric for group in fit for item in group.critique.evidence if item.tool != "second_look"}
    )
    found: dict[str, Interval | None] = {}
    for column, metric in enumerate(metrics):
        found[metric] = _mean_srcc(test, [(-group.values(metrics)[:, column]).tolist() for group in test])
    network = ToolRankNet(len(metrics))
    network.fit(
        torch.stack([group.values(metrics) for group in fit]),
        torch.tensor([group.errors_mm for group in fit]),
    )
    found["RankNet on all"] = _mean_srcc(test, [network.score(group.values(metrics)) for group in test])
    found["agent"] = _mean_srcc(test, [list(group.critique.scores) for group in test])
    return found


def _mean_srcc(groups: Sequence[JudgedGroup], scores: Sequence[Sequence[float | None]]) -> Interval | None:
    values = [group_spearman(s, group.errors_mm) for s, group in zip(scores, groups, strict=True)]
    return bootstrap_mean(np.array([[np.nan if value is None else value for value in values]], dtype=float))


class Quieter:
    """The base policy sampled at another scale of its starting noise."""

    def __init__(self, policy: DiffusionPolicy, noise_scale: float) -> None:
        self.policy, self.noise_scale = policy, noise_scale

    def encode(self, samples: Sequence[Sample]) -> Features:
        return self.policy.encode(samples)

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return self.policy.sample(features, num_samples, generator, self.noise_scale)


def align_on_truth(
    policy: DiffusionPolicy, body: Body, cases: Sequence[Labelled], out: Path, arguments: Mapping[str, object]
) -> DiffusionPolicy:
    """An oracle run: the scores are minus the true errors, and every row says so."""
    truths = {case.sample.id: case.truth for case in cases}
    scorer = TruthScorer(body, truths.__getitem__)
    groups = build_preferences(policy, scorer, [case.sample for case in cases], out / "oracle-groups")
    config = GroupPreferenceConfig(output_dir=str(out / "oracle"), use_cpu=True, **arguments)  # pyright: ignore[reportArgumentType]
    return align(policy, load_preferences(groups), config)  # pyright: ignore[reportReturnType]


def spread_matched(
    policy: DiffusionPolicy, body: Body, cases: Sequence[Labelled], target_mm: float, num_samples: int
) -> tuple[float, Report]:
    """The noise scale at which the base's visible spread is `target_mm`, found on 50 images, and its report there."""

    def spread(scale: float) -> float:
        report = evaluate_policy(Quieter(policy, scale), body, cases[:50], num_samples=20, seed=0)
        return float(np.nanmean(report.values["spread_visible_mm"]["all"]))

    scale = float(root_scalar(lambda value: spread(value) - target_mm, bracket=(0.0, 1.5), xtol=0.01).root)
    return scale, evaluate_policy(Quieter(policy, scale), body, cases, num_samples=num_samples, seed=0)
