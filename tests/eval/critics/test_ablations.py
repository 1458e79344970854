"""Explorations and fitted scorers are cached by everything that shapes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agent.agent import CritiqueAgent
from agent.vlm import EmbeddedCritic
from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.ablations import AGENT, AgentBench, AgentVariant
from eval.critics.exploration import Exploration
from eval.critics.files.evidence_cache import EvidenceCache
from eval.critics.groups import LabelledGroup
from eval.critics.reference_critics.baselines import fitted_hmr_scorer
from hmr.body.model import Body
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from rl.scorers.hmr_scorer import CARD, WEIGHTS, HMRScorer
from rl.scorers.hmr_scorer_training import ScorerTraining
from tests.agent.critique_case import HashEmbedder, PerfectDetector, group, labelled, spoiled_group

ERRORS = {name: np.arange(3.0) for name in ERROR_METRICS}
LAB = [LabelledGroup(labelled(f"lab-{row}"), group(spoiled_group(group=3)), ERRORS) for row in range(4)]


@pytest.fixture
def bench(tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path) -> Iterator[Callable[..., AgentBench]]:
    """Makes benches with four lab scenes in one folder."""

    def stage(title: str, total: int):
        return lambda done, note="": None

    with EvidenceCache(tmp_path / "evidence.jsonl") as evidence:

        def make(revision: str = "1", **more: Any) -> AgentBench:
            backend = EmbeddedCritic()
            backend.revision = revision
            return AgentBench(
                policy=tiny_policy, body=body, backend=backend, embedder=HashEmbedder(), evidence=evidence,
                calibration=LAB, out=tmp_path, stage=stage, **more,
            )  # fmt: skip

        yield make


def test_everything_that_shapes_an_exploration_names_its_folder(bench, monkeypatch: pytest.MonkeyPatch):
    explored: list[tuple[Path, float]] = []

    def run(self: Exploration, agent: CritiqueAgent, stage: object) -> SimpleNamespace:
        explored.append((self.folder, agent.rules.exploration))
        return SimpleNamespace(failures=())

    monkeypatch.setattr(Exploration, "run", run)
    curious, greedy, detector = bench(ucb=2.0), AgentVariant(greedy=True), PerfectDetector()
    for made, variant in (
        (bench(), AGENT), (bench("another-revision"), AGENT), (curious, AGENT), (curious, greedy),
        (bench(detector=detector), AGENT),
        (bench(rules_per_case=6), AGENT), (bench(critique_settings={"permutations": 1}), AGENT),
    ):  # fmt: skip
        with made.agent(variant) as agent:
            assert isinstance(agent.detector, WithJoints3D)
            assert (agent.detector.detector is detector) == (made.detector is detector)
            assert agent.settings.rules_per_case == made.rules_per_case
            assert agent.settings.permutations == made.critique_settings.get("permutations", 3)
    assert [ucb for _, ucb in explored] == [0.5, 0.5, 2.0, 0.0, 0.5, 0.5, 0.5]
    assert len({folder for folder, _ in explored}) == 7


def test_a_scorer_is_fitted_once_per_fingerprint(
    bench, tiny_policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
):
    fitted: list[Path] = []

    class Fitted:
        def save(self, folder: Path) -> None:
            fitted.append(folder)
            folder.mkdir(exist_ok=True)
            (folder / WEIGHTS).touch()
            (folder / CARD).touch()

    monkeypatch.setattr("eval.critics.reference_critics.baselines.train_hmr_scorer", lambda *_: Fitted())
    monkeypatch.setattr(HMRScorer, "load", lambda folder, *_: HMRScorer.__new__(HMRScorer))
    for _ in range(2):
        fitted_hmr_scorer(bench())
    assert len(fitted) == 1
    (fitted[0] / CARD).unlink()  # a kill between the weights and the card
    fitted_hmr_scorer(bench())
    assert fitted == [fitted[0]] * 2
    training = "eval.critics.reference_critics.baselines.ScorerTraining"
    monkeypatch.setattr(training, functools.partial(ScorerTraining, steps=7))
    fitted_hmr_scorer(bench())
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)  # the same encoder, other samples
    fitted_hmr_scorer(bench())
    assert len(set(fitted)) == 3
