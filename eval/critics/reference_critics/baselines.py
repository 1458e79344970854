"""Baseline critics for the comparison with the agent.

| critic     | scores                                                                                               |
|------------|------------------------------------------------------------------------------------------------------|
| hmr-scorer | `rl.scorers.hmr_scorer`, fitted on the scenes that the agent explores, with early stopping on those  |
|            | that decide on the admission of its rules                                                            |
| ranknet    | `rank_net` on the agent's evidence, fitted to MPJPE on both sets of scenes                           |
| consensus  | minus the distance from the rest of the group: one tool, without the image                           |
| random     | random numbers                                                                                       |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from common.seeding import derive_generator
from common.storage.fingerprint import json_digest
from eval.benchmark.protocol import ScoredGroup
from eval.critics.ablations import AgentBench
from eval.critics.files.verdict_cache import CriticVerdict
from eval.critics.groups import LabelledGroup
from eval.critics.reference_critics.rank_net import ToolRankNet, standardised
from rl.scorers.hmr_scorer import CARD, HMRScorer
from rl.scorers.hmr_scorer_training import ScorerTraining, train_hmr_scorer

__all__ = [
    "fitted_hmr_scorer", "fitted_rank_net", "metric_scores", "random_scores", "rank_net_scores",
]  # fmt: skip


def fitted_hmr_scorer(bench: AgentBench) -> HMRScorer:
    """HMR-Scorer for the bench's scenes, policy and seed, cached in the bench's folder.

    The key holds the digest of the whole policy, not of its encoder alone, because the scorer learns from its samples.
    """
    cases, held_out = ([group.labelled for group in bench.part(part)] for part in ("explore", "admit"))
    training = ScorerTraining(seed=bench.seed)
    fingerprint = {
        "policy": bench.policy.digest(), "training": dataclasses.asdict(training),
        "scenes": [case.sample.id for case in (*cases, *held_out)],
    }  # fmt: skip
    folder = bench.out / f"hmr-scorer-{json_digest(fingerprint, length=12)}"
    if not (folder / CARD).exists():  # it is written last
        count = len(cases) + len(held_out)
        tick = bench.stage(f"fitting HMR-Scorer on {count} labelled images", count)
        train_hmr_scorer(bench.policy, bench.body, cases, held_out, training, tick).save(folder)
    return HMRScorer.load(folder, bench.policy, bench.body)


def metric_scores(verdict: CriticVerdict, metric: str) -> tuple[float | None, ...]:
    """Minus the metric's values, because lower values are better; None for all if it was not measured."""
    for item in verdict.evidence:
        if item.metric == metric:
            return tuple(None if value is None else -value for value in item.values)
    return (None,) * len(verdict.scores)


def fitted_rank_net(
    groups: Sequence[LabelledGroup], verdicts: Sequence[CriticVerdict], metrics: Sequence[str], seed: int
) -> ToolRankNet:
    network = ToolRankNet(len(metrics), seed)
    values = [
        standardised(verdict.evidence, metrics, len(group.hypotheses))
        for group, verdict in zip(groups, verdicts, strict=True)
    ]
    errors = [torch.from_numpy(group.errors_mm["mpjpe_mm"]) for group in groups]
    network.fit(torch.stack(values), torch.stack(errors))
    return network


def rank_net_scores(
    network: ToolRankNet, verdict: CriticVerdict, metrics: Sequence[str]
) -> tuple[float | None, ...]:
    return tuple(network.score(standardised(verdict.evidence, metrics, len(verdict.scores))))


def random_scores(group: LabelledGroup, seed: int) -> ScoredGroup:
    generator = derive_generator(seed, "random critic", group.labelled.sample.id)
    return group.scored(torch.rand(len(group.hypotheses), generator=generator).tolist())
