"""What the signal can carry: each tool alone, a ceiling over all of them, a floor, the headroom, and an oracle.

Spearman's rho per group against MPJPE on wild groups of the base policy; then alignment on the true errors (stamped
`uses_truth`) beside the base whose starting noise is scaled until its spread is the same, because a narrower spread
lowers the mean error by itself. `docs/feasibility.md` holds the figures and the command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agent.agent import CritiqueAgent
from agent.agreement import group_spearman
from agent.default import default_agent, open_default_memory
from agent.types import GroupCritique
from eval.intervals import Interval, bootstrap_mean
from eval.protocol import Policy, Report, evaluate_policy
from eval.rank_net import ToolRankNet, standardised
from eval.report_store import kept_report
from eval.spread_match import Quieter, SpreadAtScale, matching_scale
from eval.true_detector import true_eyes
from hmr.body import Body
from hmr.data.store import read_labelled, set_digest
from hmr.metrics import mpjpe_mm
from hmr.policy import DiffusionPolicy
from hmr.progress import Stage
from hmr.types import Labelled
from rl.config import GroupPreferenceConfig
from rl.preferences import build_preferences, load_preferences
from rl.scorers import TruthScorer
from rl.seeding import derive_generator
from rl.trainer import align

__all__ = [
    "VARIANTS",
    "JudgedGroup",
    "OracleSeed",
    "OracleStudy",
    "align_on_truth",
    "judge",
    "rank_agreements",
]

GROUP_SIZE = 20
VARIANTS = ("base", "oracle", "matched base")


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
            agent = dataclasses.replace(agent, detector=true_eyes(truths, policy, body))
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


def align_on_truth(
    policy: DiffusionPolicy,
    body: Body,
    cases: Sequence[Labelled],
    out: Path,
    arguments: Mapping[str, object],
    seed: int,
) -> DiffusionPolicy:
    """An oracle run: the scores are minus the true errors, and every row says so."""
    truths = {case.sample.id: case.truth for case in cases}
    scorer = TruthScorer(body, truths.__getitem__)
    samples = [case.sample for case in cases]
    groups = build_preferences(policy, scorer, samples, out / "groups", group_size=GROUP_SIZE, seed=seed)
    config = GroupPreferenceConfig(output_dir=str(out / "trainer"), use_cpu=True, seed=seed, **arguments)  # pyright: ignore[reportArgumentType]
    return align(policy, load_preferences(groups), config)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class OracleSeed:
    reports: dict[str, Report]  # by VARIANTS, on the same images
    noise_scale: float  # of the matched base


@dataclass(frozen=True)
class OracleStudy:
    """Alignment on the truth beside the base, and beside the base at the same spread.

    What a seed gave is kept under `out` and found there again, by a key of all that shaped it but the code.
    """

    policy: DiffusionPolicy
    body: Body
    train: Path  # a set of scenes; their truth is the oracle's score
    test: Path
    out: Path
    alignment: Mapping[str, object]  # of rl.config.GroupPreferenceConfig
    num_samples: int
    stage: Stage

    def run(self, seed: int) -> OracleSeed:
        base = self._report("base", seed, lambda: self.policy)
        oracle = self._report("oracle", seed, lambda: self._oracle(seed))
        scale = self._matching_scale(seed, base.spread_mm(), oracle.spread_mm())
        matched = self._report("matched base", seed, lambda: Quieter(self.policy, scale))
        return OracleSeed(dict(zip(VARIANTS, (base, oracle, matched), strict=True)), scale)

    def _oracle(self, seed: int) -> DiffusionPolicy:
        tick = self.stage(f"seed {seed}: aligning on the truth", 1)
        name = hashlib.sha256(json.dumps(self._key("oracle", seed)).encode()).hexdigest()[:12]
        cases = read_labelled(self.train)
        oracle = align_on_truth(
            self.policy, self.body, cases, self.out / f"oracle-{name}", self.alignment, seed
        )
        tick(1)
        return oracle

    def _matching_scale(self, seed: int, base_mm: float, target_mm: float) -> float:
        path, key = self.out / f"noise-scale-seed-{seed}.json", self._key("matched base", seed)
        if path.exists() and (kept := json.loads(path.read_text()))["key"] == key:
            return kept["noise_scale"]
        tick = self.stage(f"seed {seed}: matching the spread", 1)
        spread_at = SpreadAtScale(self.policy, self.body, read_labelled(self.test), self.num_samples, seed)
        scale = matching_scale(spread_at, base_mm, target_mm)
        path.write_text(json.dumps({"key": key, "noise_scale": scale}))
        tick(1)
        return scale

    def _report(self, variant: str, seed: int, policy: Callable[[], Policy]) -> Report:
        path = self.out / f"{variant.replace(' ', '-')}-seed-{seed}.npz"
        return kept_report(path, self._key(variant, seed), lambda: self._evaluate(variant, seed, policy()))

    def _evaluate(self, variant: str, seed: int, policy: Policy) -> Report:
        cases = read_labelled(self.test)
        tick = self.stage(f"seed {seed}: evaluating the {variant}", len(cases))
        return evaluate_policy(
            policy,
            self.body,
            cases,
            num_samples=self.num_samples,
            group_size=min(GROUP_SIZE, self.num_samples),
            seed=seed,
            progress=lambda done, total: tick(done),
        )

    def _key(self, variant: str, seed: int) -> dict[str, Any]:
        key = {
            "variant": variant,
            "policy": self.policy.digest(),
            "test": set_digest(self.test),
            "seed": seed,
            "num_samples": self.num_samples,
        }
        if variant == "base":
            return key
        return key | {"train": set_digest(self.train), "alignment": dict(self.alignment)}
