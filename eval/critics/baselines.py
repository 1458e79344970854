"""Critics that are no agents: what an agent must beat, and the floor under all of them.

| critic     | what it is                                                                                         |
|------------|----------------------------------------------------------------------------------------------------|
| hmr-scorer | `rl.scorers.hmr_scorer`, fitted on the scenes that the agent explores, stopped on those that admit its     |
|            | rules                                                                                              |
| ranknet    | `eval.critics.rank_net` over the agent's own evidence, fitted for MPJPE on both: is the agent more than    |
|            | its evidence?                                                                                      |
| consensus  | the distance from the rest of the group, one tool, no image                                        |
| random     | noise                                                                                              |
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import torch

from common.seeding import derive_generator
from eval.benchmark.protocol import ScoredGroup
from eval.critics.ablations import AgentBench
from eval.critics.groups import LabelledGroup
from eval.critics.rank_net import ToolRankNet, standardised
from eval.critics.verdict_cache import Verdict
from rl.scorers.hmr_scorer import CARD, HMRScorer
from rl.scorers.hmr_scorer_training import ScorerTraining, train_hmr_scorer

__all__ = [
    "fitted_hmr_scorer", "fitted_rank_net", "metric_scores", "random_scores", "rank_net_scores",
]  # fmt: skip


def fitted_hmr_scorer(bench: AgentBench) -> HMRScorer:
    """HMR-Scorer of the bench's scenes, policy and seed; kept under its folder.

    It learns from the policy's own samples: the key is of the whole policy, not of its eyes alone.
    """
    cases, held_out = ([group.labelled for group in bench.part(part)] for part in ("explore", "admit"))
    training = ScorerTraining(seed=bench.seed)
    made_from = {
        "policy": bench.policy.digest(), "training": dataclasses.asdict(training),
        "scenes": [case.sample.id for case in (*cases, *held_out)],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    folder = bench.out / f"hmr-scorer-{key}"
    if not (folder / CARD).exists():  # written last: what a kill left has none
        count = len(cases) + len(held_out)
        tick = bench.stage(f"fitting HMR-Scorer on {count} lab scenes", count)
        train_hmr_scorer(bench.policy, bench.body, cases, held_out, training, tick).save(folder)
    return HMRScorer.load(folder, bench.policy, bench.body)


def metric_scores(critique: Verdict, metric: str) -> tuple[float | None, ...]:
    """Minus a metric's values: lower is better. None for all where it was not measured."""
    for item in critique.evidence:
        if item.metric == metric:
            return tuple(None if value is None else -value for value in item.values)
    return (None,) * len(critique.scores)


def fitted_rank_net(
    groups: Sequence[LabelledGroup], critiques: Sequence[Verdict], metrics: Sequence[str], seed: int
) -> ToolRankNet:
    network = ToolRankNet(len(metrics), seed)
    values = [
        standardised(seen.evidence, metrics, len(group.hypotheses))
        for group, seen in zip(groups, critiques, strict=True)
    ]
    errors = [torch.from_numpy(group.errors_mm["mpjpe_mm"]) for group in groups]
    network.fit(torch.stack(values), torch.stack(errors))
    return network


def rank_net_scores(
    network: ToolRankNet, critique: Verdict, metrics: Sequence[str]
) -> tuple[float | None, ...]:
    return tuple(network.score(standardised(critique.evidence, metrics, len(critique.scores))))


def random_scores(group: LabelledGroup, seed: int) -> ScoredGroup:
    generator = derive_generator(seed, "random critic", group.labelled.sample.id)
    return group.scored(torch.rand(len(group.hypotheses), generator=generator).tolist())
