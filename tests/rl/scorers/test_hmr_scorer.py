"""HMR-Scorer: its features, its training, saving and loading."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from agent.agreement import group_spearman
from hmr.body.model import Body
from hmr.detection.person_encoder import PersonEncoder
from hmr.detection.simulated import SimulatedDetector
from hmr.metrics.errors import group_errors_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import LAB, STREET
from hmr.synthetic.scenes import SceneMaker
from hmr.types import BodyParams, Hypotheses, Labelled
from rl.scorers.hmr_scorer import HMRScorer, hypothesis_features, image_features
from rl.scorers.hmr_scorer_training import ERRORS, ScorerTraining, rank_net_loss, train_hmr_scorer
from tests.hmr.policy.tiny_policy import make_tiny_policy

QUICK = ScorerTraining(noisy=4, sampled=5, views=2, steps=20, batch=4, check_every=10)


@pytest.fixture(scope="module")
def cases(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, LAB, seed=5).chunk(0, 4)]


def group_of(policy: DiffusionPolicy, case: Labelled, count: int = 5, seed: int = 0) -> Hypotheses:
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(policy.encode([case.sample]), count, generator)[0]


@pytest.fixture
def mirrored_policy(tiny_policy: DiffusionPolicy, tiny_encoder: PersonEncoder) -> DiffusionPolicy:
    """A policy with flip test, as the shipped one."""
    tiny_encoder.config.flip_test = True
    return tiny_policy


@pytest.fixture(scope="module")
def trained(body: Body, cases: list[Labelled]) -> HMRScorer:
    return train_hmr_scorer(make_tiny_policy(body), body, cases[:2], cases[2:3], QUICK)


@pytest.fixture
def scorer(trained: HMRScorer, tiny_policy: DiffusionPolicy) -> HMRScorer:
    """Of this test's policy, which the test may change."""
    scorer = copy.copy(trained)
    scorer.reader = tiny_policy
    return scorer


def test_the_loss_of_three_hypotheses_by_hand():
    # Errors 1 < 2 < 3 make the pairs (0, 1), (0, 2), (1, 2); scores 2, 1, 0 give margins 1, 2, 1:
    # (2 log(1 + e^-1) + log(1 + e^-2)) / 3 = (2 * .31326 + .12693) / 3 = .25115
    loss = rank_net_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[[1.0, 2.0, 3.0]]]))
    assert loss.item() == pytest.approx(0.25115, abs=1e-5)
    # a second kind of error with one pair, (1, 0): margin -1, log(1 + e) = 1.31326; the mean is over all four
    both = rank_net_loss(
        torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[[1.0, 2.0, 3.0]], [[2.0, 1.0, 2.0]]])
    )
    pairs = 3 * 0.25115 + math.log(1 + math.e) + math.log(1 + math.exp(-1))  # (1, 0) and (1, 2)
    assert both.item() == pytest.approx(pairs / 5, abs=1e-4)


def test_no_pair_crosses_images():
    scores, errors = torch.tensor([[1.0, 0.0], [9.0, 7.0]]), torch.tensor([[[1.0, 2.0], [5.0, 4.0]]])
    lifted = rank_net_loss(scores + torch.tensor([[0.0], [100.0]]), errors)
    torch.testing.assert_close(rank_net_loss(scores, errors), lifted)


def test_the_initial_estimate_has_no_error_against_itself(
    tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    image = image_features(tiny_policy, body, cases[0].sample)
    estimate = tiny_policy.regress(tiny_policy.encode([cases[0].sample]))[0]
    features = hypothesis_features(tiny_policy, body, image, estimate)
    rotations = features.joints[..., -12:].reshape(1, 24, 6, 2)
    # axis-angle and back: rotations leave the 6D vector normalised, betas and pelvis as they were
    torch.testing.assert_close(features.whole[:, 1::2], torch.zeros(1, 13), atol=1e-3, rtol=0)
    assert rotations.isfinite().all()
    offset_m = features.joints[..., -15:-12]
    torch.testing.assert_close(offset_m, torch.zeros(1, 24, 3), atol=1e-5, rtol=0)


def test_a_score_does_not_depend_on_the_group(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, cases: list[Labelled]
):
    group = group_of(tiny_policy, cases[3])
    alone = [
        scorer.score(cases[3].sample, Hypotheses(group.params[j : j + 1], group.camera))[0] for j in range(5)
    ]
    assert scorer.score(cases[3].sample, group) == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_it_learns_that_more_noise_is_worse(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    """On the training images with other noise: checks gradients, signs and the choice of the step."""
    training = dataclasses.replace(QUICK, views=2, noisy=24, steps=300, errors=("mpjpe_mm",))
    scorer = train_hmr_scorer(tiny_policy, body, cases[:2], cases[:2], training)
    generator = torch.Generator().manual_seed(1)
    for case in cases[:2]:
        truth = case.truth.params
        noise = [scale * torch.randn(23, 3, generator=generator) for scale in torch.linspace(0.0, 0.6, 10)]
        bodies = [dataclasses.replace(truth, body_pose=truth.body_pose + move) for move in noise]
        group = Hypotheses(BodyParams.stack(bodies), case.sample.camera)
        errors = group_errors_mm(body, group.params, case.truth)["mpjpe_mm"].tolist()
        assert (group_spearman(scorer.score(case.sample, group), errors) or 0.0) > 0.5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scorer(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    torch.rand(3)  # the global generator must not matter
    again = train_hmr_scorer(tiny_policy, body, cases[:2], cases[2:3], QUICK)
    other = train_hmr_scorer(tiny_policy, body, cases[:2], cases[2:3], dataclasses.replace(QUICK, seed=1))
    group = group_of(tiny_policy, cases[3])
    given = scorer.score(cases[3].sample, group)
    assert again.score(cases[3].sample, group) == given
    assert other.score(cases[3].sample, group) != given


def test_saving_and_loading(scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, cases, tmp_path):
    group = group_of(tiny_policy, cases[3])
    loaded = HMRScorer.load(scorer.save(tmp_path / "scorer"), tiny_policy, body)
    assert loaded.score(cases[3].sample, group) == scorer.score(cases[3].sample, group)


def test_it_works_with_aligned_policies_of_the_same_encoder_only(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, tiny_encoder: PersonEncoder, body: Body, tmp_path
):
    folder = scorer.save(tmp_path)
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)  # alignment trains the denoiser
    HMRScorer.load(folder, tiny_policy, body)
    torch.nn.init.zeros_(tiny_encoder.network.heatmap.weight)
    with pytest.raises(ValueError, match="another policy's encoder"):
        HMRScorer.load(folder, tiny_policy, body)


@pytest.mark.slow
def test_a_policy_with_flip_test_has_a_scorer_too(
    mirrored_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    scorer = train_hmr_scorer(mirrored_policy, body, cases[:2], cases[2:3], QUICK)
    scores = scorer.score(cases[3].sample, group_of(mirrored_policy, cases[3]))
    assert len(set(scores)) == 5


def test_grids_are_those_of_the_crop_itself(
    tiny_policy: DiffusionPolicy, tiny_encoder: PersonEncoder, body: Body, cases: list[Labelled]
):
    """Grids are sampled at positions in the crop, so they must not come from its mirror image."""
    plain = image_features(tiny_policy, body, cases[0].sample)
    tiny_encoder.config.flip_test = True
    flipped = image_features(tiny_policy, body, cases[0].sample)
    for own, other in zip((*plain.grids, plain.heat), (*flipped.grids, flipped.heat), strict=True):
        torch.testing.assert_close(other, own)


def test_flip_test_makes_another_encoder(
    scorer: HMRScorer, mirrored_policy: DiffusionPolicy, body: Body, tmp_path
):
    folder = scorer.save(tmp_path)  # trained with flip test; its policy is the same object
    mirrored_policy.detector.encoder.config.flip_test = False
    with pytest.raises(ValueError, match="another policy's encoder"):
        HMRScorer.load(folder, mirrored_policy, body)


@pytest.fixture
def other_policy(
    tiny_policy: DiffusionPolicy, body: Body, monkeypatch: pytest.MonkeyPatch
) -> DiffusionPolicy:
    """With another detector and another head; the tiny policy stands for the shipped reader."""
    monkeypatch.setattr("rl.scorers.hmr_scorer.load_reader", lambda device: tiny_policy)
    other = make_tiny_policy(body)
    with torch.no_grad():
        for parameter in other.regressor.parameters():
            parameter.mul_(3.0)
    other.detector = SimulatedDetector()
    return other


def test_a_policy_with_another_detector_is_scored_by_the_reader_of_the_embedded_one(
    scorer: HMRScorer, other_policy: DiffusionPolicy, tiny_policy: DiffusionPolicy, body: Body, tmp_path
):
    """Its own head was not trained for the embedded detector's reports, so its estimate would mislead."""
    case = SceneMaker(body, STREET, seed=5).chunk(0, 1)[0].labelled
    group = group_of(tiny_policy, case)
    loaded = HMRScorer.load(scorer.save(tmp_path), other_policy, body)
    assert loaded.digest() == scorer.digest()
    assert loaded.score(case.sample, group) == scorer.score(case.sample, group)
    unread = dataclasses.replace(case.sample, detection=None)
    assert loaded.score(unread, group) == scorer.score(case.sample, group)


@pytest.mark.slow
def test_it_is_fitted_to_a_policy_of_the_simulated_detector(other_policy: DiffusionPolicy, body: Body):
    street = [scene.labelled for scene in SceneMaker(body, STREET, seed=5).chunk(0, 3)]
    scorer = train_hmr_scorer(other_policy, body, street[:2], street[2:], QUICK)
    assert len(set(scorer.score(street[2].sample, group_of(other_policy, street[2])))) == 5


def test_errors_of_loading(scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, tmp_path):
    with pytest.raises(FileNotFoundError, match="no HMR-Scorer"):
        HMRScorer.load(tmp_path, tiny_policy, body)
    folder = scorer.save(tmp_path)
    card = json.loads((folder / "hmr_scorer.json").read_text())
    card["shape"]["width"] += 1
    (folder / "hmr_scorer.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="cannot be read"):
        HMRScorer.load(folder, tiny_policy, body)


def test_errors_are_zero_at_the_truth(body: Body, cases: list[Labelled]):
    truth = cases[0].truth
    params = type(truth.params).stack([truth.params])
    found = group_errors_mm(body, params, truth)
    assert tuple(found) == ERRORS
    for values in found.values():
        assert values.tolist() == pytest.approx([0.0], abs=0.05)


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"errors": ("mae",)}, "mpjpe_mm"), ({"errors": ()}, "nothing"), ({"noisy": 1}, "at least 2")],
)
def test_invalid_settings_are_refused(fault: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ScorerTraining(**fault)


def test_it_needs_cases_and_held_out_ones(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    with pytest.raises(ValueError, match="held-out"):
        train_hmr_scorer(tiny_policy, body, cases, [], QUICK)
