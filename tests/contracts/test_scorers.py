"""The contract of every scorer, and a check that only `TruthScorer` reads the truth."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from agent.default import default_agent, open_default_memory
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Hypotheses, Labelled, Scorer
from rl.scorers.hmr_scorer_training import ScorerTraining, train_hmr_scorer
from rl.scorers.rewards import RewardMix
from rl.scorers.truth import TruthScorer

GROUP = 6
Build = Callable[[DiffusionPolicy, Body, "list[Labelled]", object], Scorer]


def hmr_scorer(policy: DiffusionPolicy, body: Body, cases: list[Labelled], folder) -> Scorer:
    training = ScorerTraining(noisy=4, sampled=4, views=1, steps=10, batch=2, check_every=5)
    return train_hmr_scorer(policy, body, cases[:1], cases[1:2], training)


def agent(policy: DiffusionPolicy, body: Body, cases: list[Labelled], folder) -> Scorer:
    with open_default_memory(folder, policy, frozen=False):
        pass  # the seed rules
    return default_agent(policy, body, open_default_memory(folder, policy, frozen=True))


def truth(policy: DiffusionPolicy, body: Body, cases: list[Labelled], folder) -> Scorer:
    return TruthScorer(body, {case.sample.id: case.truth for case in cases}.__getitem__)


def rewards(policy: DiffusionPolicy, body: Body, cases: list[Labelled], folder) -> Scorer:
    def upright(*, joints_cam_m, **kwargs):
        return (joints_cam_m[:, 0, 1] - joints_cam_m[:, 15, 1]).tolist()

    def centred(*, sample, hypotheses, **kwargs):
        pelvis_px = hypotheses.camera.project(hypotheses.params.transl)
        return (-(pelvis_px - torch.tensor(sample.box.center)).norm(dim=-1)).tolist()

    return RewardMix([upright, centred], [1.0, 0.5], normalize=True, body=body)


SCORERS: dict[str, Build] = {"hmr-scorer": hmr_scorer, "agent": agent, "truth": truth, "rewards": rewards}
BLIND = sorted(SCORERS.keys() - {"truth"})  # scorers that must not read the truth


@pytest.fixture(scope="module")
def cases(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, LAB, seed=6).chunk(0, 3)]


@pytest.fixture
def group(tiny_policy: DiffusionPolicy, cases: list[Labelled]) -> Hypotheses:
    generator = torch.Generator().manual_seed(0)
    return tiny_policy.sample(tiny_policy.encode([cases[2].sample]), GROUP, generator)[0]


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_one_finite_reproducible_score_per_hypothesis(name, tiny_policy, body, cases, group, tmp_path):
    scorer, sample = SCORERS[name](tiny_policy, body, cases, tmp_path), cases[2].sample
    assert isinstance(scorer, Scorer)
    assert scorer.name
    pixels, params = sample.image.copy(), copy.deepcopy(group.params)
    scores = scorer.score(sample, group)
    assert len(scores) == GROUP
    assert all(score is None or math.isfinite(score) for score in scores)
    assert len(set(scores)) > 1
    assert scorer.score(sample, group) == scores
    assert np.array_equal(sample.image, pixels)
    for column in ("global_orient", "body_pose", "betas", "transl"):
        assert torch.equal(getattr(group.params, column), getattr(params, column))


@pytest.mark.parametrize("name", BLIND)
def test_a_score_depends_only_on_the_sample_and_the_group(
    name, tiny_policy, body, cases, group, tmp_path, monkeypatch
):
    """The truth is found by the id of the sample, so with an unknown id the scores must not change. The agent draws
    label orders by the id; they are the same for all samples here."""
    monkeypatch.setattr("agent.scoring.scoring.order_seed", lambda seed, case_id: seed)
    scorer, sample = SCORERS[name](tiny_policy, body, cases, tmp_path), cases[2].sample
    renamed = dataclasses.replace(sample, id="unknown")
    assert scorer.score(renamed, group) == scorer.score(sample, group)
