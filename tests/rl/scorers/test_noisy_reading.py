"""A critic that reads the pose with an error: which SRCC it has, and whose error it shares."""

import numpy as np
import pytest
import torch

from agent.agreement import mean_agreement
from hmr.body.model import Body
from hmr.metrics.errors import about_pelvis, mpjpe_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import STREET
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Hypotheses, Labelled, Scorer
from rl.scorers.noisy_reading import NoisyReadingScorer, Reading, fitted_reading
from rl.scorers.truth import TruthScorer


@pytest.fixture(scope="module")
def cases(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, STREET, seed=5).chunk(0, 12)]


def fitted(policy: DiffusionPolicy, body: Body, cases: list[Labelled], critic: str) -> NoisyReadingScorer:
    truths = {case.sample.id: case.truth for case in cases}
    return fitted_reading(policy, body, [case.sample for case in cases], truths.__getitem__, critic)


def group_of(policy: DiffusionPolicy, case: Labelled) -> Hypotheses:
    generator = torch.Generator().manual_seed(3)
    return policy.sample(policy.encode([case.sample]), 20, generator)[0]


@pytest.mark.parametrize("critic", ["noisy-reading:0.4", "noisy-reading:0.8", "noisy-reading:0.6:shared"])
def test_it_has_the_srcc_that_was_asked_for(
    tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled], critic: str
):
    """On other groups of the same images, of which 12 know a mean rho to about .05."""
    scorer = fitted(tiny_policy, body, cases, critic)
    pairs = []
    for case in cases:
        group = group_of(tiny_policy, case)
        errors = mpjpe_mm(body.joints(group.params), case.truth.joints_cam_m)
        pairs.append((scorer.score(case.sample, group), errors.tolist()))
    assert mean_agreement(pairs).srcc == pytest.approx(Reading.parse(critic).srcc, abs=0.15)
    assert scorer.uses_truth
    assert scorer.name == critic
    assert isinstance(scorer, Scorer)


def test_an_exact_reading_is_the_truth(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    group = group_of(tiny_policy, cases[0])
    exact = TruthScorer(body, lambda _: cases[0].truth).score(cases[0].sample, group)
    scorer = fitted(tiny_policy, body, cases, "noisy-reading:1")
    assert scorer.scale == 0
    assert scorer.score(cases[0].sample, group) == pytest.approx(exact, abs=1e-3)


@pytest.mark.slow
def test_shared_errors_are_the_policys_and_others_are_not(
    tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    shared, other = (fitted(tiny_policy, body, cases, f"noisy-reading:0.6{kind}") for kind in (":shared", ""))
    agreement = {"shared": [], "other": []}
    for case in cases:
        start = tiny_policy.sample(tiny_policy.encode([case.sample]), 1, torch.Generator())[0]
        own = about_pelvis(body.joints(start.params))[0] - about_pelvis(case.truth.joints_cam_m)
        torch.testing.assert_close(shared.error_of(case.sample), own, atol=1e-4, rtol=0)
        for name, scorer in (("shared", shared), ("other", other)):
            error = scorer.error_of(case.sample)
            agreement[name].append(float((error * own).sum() / (error.norm() * own.norm())))
    assert np.mean(agreement["shared"]) == pytest.approx(1.0, abs=1e-3)
    assert abs(np.mean(agreement["other"])) < 0.3


@pytest.mark.slow
def test_it_repeats_itself(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    group = group_of(tiny_policy, cases[1])
    first, again, other = (
        fitted(tiny_policy, body, cases, f"noisy-reading:{srcc}") for srcc in (0.6, 0.6, 0.5)
    )
    assert first.score(cases[1].sample, group) == again.score(cases[1].sample, group)
    assert first.digest() == again.digest() != other.digest()


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ("noisy-reading:x", "takes a number"),
        ("noisy-reading:0.5:mine", "shared or nothing"),
        ("noisy-reading:1.5", "at most 1"),
        ("noisy-reading:", "takes a number"),
    ],
)
def test_other_names_are_refused(critic: str, message: str):
    with pytest.raises(ValueError, match=message):
        Reading.parse(critic)


def test_a_single_image_is_refused(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        fitted(tiny_policy, body, cases[:1], "noisy-reading:0.6")
