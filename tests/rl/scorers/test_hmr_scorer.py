"""HMR-Scorer: what it reads, how it learns, and that it comes back from disk as it was."""

import dataclasses
import json
import math

import pytest
import torch

from agent.agreement import group_spearman
from hmr.body.model import Body
from hmr.metrics.errors import group_errors_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker
from hmr.types import BodyParams, Hypotheses, Labelled
from rl.scorers.hmr_scorer import HMRScorer, look, signs_of
from rl.scorers.hmr_scorer_training import ERRORS, ScorerTraining, rank_net_loss, train_hmr_scorer

QUICK = ScorerTraining(noisy=4, sampled=5, views=2, steps=20, batch=4, check_every=10)


@pytest.fixture(scope="module")
def cases(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, LAB, seed=5).chunk(0, 4)]


def group_of(policy: DiffusionPolicy, case: Labelled, count: int = 5, seed: int = 0) -> Hypotheses:
    generator = torch.Generator().manual_seed(seed)
    return policy.sample(policy.encode([case.sample]), count, generator)[0]


@pytest.fixture
def mirrored_policy(tiny_policy: DiffusionPolicy) -> DiffusionPolicy:
    """It sees every crop in the mirror as well, as the shipped one does."""
    tiny_policy.config.mirror_look = True
    return tiny_policy


@pytest.fixture
def scorer(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]) -> HMRScorer:
    return train_hmr_scorer(tiny_policy, body, cases[:2], cases[2:3], QUICK)


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


def test_the_regression_heads_own_answer_has_no_error_under_the_guess(
    tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    seen_by = look(tiny_policy, body, cases[0].sample)
    guess = tiny_policy.regress(tiny_policy.encode([cases[0].sample]))[0]
    signs = signs_of(tiny_policy, body, seen_by, guess)
    turned = signs.joints[..., -12:].reshape(1, 24, 6, 2)
    # axis-angle and back: rotations leave the 6D vector normalised, betas and pelvis as they were
    torch.testing.assert_close(signs.whole[:, 1::2], torch.zeros(1, 13), atol=1e-3, rtol=0)
    assert turned.isfinite().all()
    beside_guess_m = signs.joints[..., -15:-12]
    torch.testing.assert_close(beside_guess_m, torch.zeros(1, 24, 3), atol=1e-5, rtol=0)


def test_a_hypothesis_is_scored_by_itself(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, cases: list[Labelled]
):
    group = group_of(tiny_policy, cases[3])
    alone = [
        scorer.score(cases[3].sample, Hypotheses(group.params[j : j + 1], group.camera))[0] for j in range(5)
    ]
    assert scorer.score(cases[3].sample, group) == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_it_learns_that_more_noise_is_worse(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    """On the training images, with other noise: a check of gradients, signs and kept steps."""
    training = dataclasses.replace(QUICK, views=1, noisy=12, steps=150, errors=("mpjpe_mm",))
    scorer = train_hmr_scorer(tiny_policy, body, cases[:2], cases[:2], training)
    generator = torch.Generator().manual_seed(1)
    for case in cases[:2]:
        truth = case.truth.params
        noise = [scale * torch.randn(23, 3, generator=generator) for scale in torch.linspace(0.0, 0.6, 10)]
        bodies = [dataclasses.replace(truth, body_pose=truth.body_pose + move) for move in noise]
        group = Hypotheses(BodyParams.stack(bodies), case.sample.camera)
        errors = group_errors_mm(body, group.params, case.truth)["mpjpe_mm"].tolist()
        assert (group_spearman(scorer.score(case.sample, group), errors) or 0.0) > 0.5


def test_the_same_seed_gives_the_same_scorer(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    torch.rand(3)  # the global stream has no say
    again = train_hmr_scorer(tiny_policy, body, cases[:2], cases[2:3], QUICK)
    other = train_hmr_scorer(tiny_policy, body, cases[:2], cases[2:3], dataclasses.replace(QUICK, seed=1))
    group = group_of(tiny_policy, cases[3])
    given = scorer.score(cases[3].sample, group)
    assert again.score(cases[3].sample, group) == given
    assert other.score(cases[3].sample, group) != given


def test_it_comes_back_from_disk(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, cases, tmp_path
):
    group = group_of(tiny_policy, cases[3])
    loaded = HMRScorer.load(scorer.save(tmp_path / "scorer"), tiny_policy, body)
    assert loaded.score(cases[3].sample, group) == scorer.score(cases[3].sample, group)


def test_it_serves_what_alignment_makes_of_its_policy_and_no_other(
    scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, tmp_path
):
    folder = scorer.save(tmp_path)
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)  # alignment trains the denoiser
    HMRScorer.load(folder, tiny_policy, body)
    torch.nn.init.zeros_(tiny_policy.encoder.heatmap.weight)
    with pytest.raises(ValueError, match="another policy's encoder"):
        HMRScorer.load(folder, tiny_policy, body)


def test_a_policy_that_looks_twice_has_a_scorer_too(
    mirrored_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
):
    scorer = train_hmr_scorer(mirrored_policy, body, cases[:2], cases[2:3], QUICK)
    scores = scorer.score(cases[3].sample, group_of(mirrored_policy, cases[3]))
    assert len(set(scores)) == 5


def test_grids_are_those_of_the_crop_itself(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    """What is sampled at a joint's place must come from the picture that the place is in, not from its mirror image."""
    once = look(tiny_policy, body, cases[0].sample)
    tiny_policy.config.mirror_look = True
    twice = look(tiny_policy, body, cases[0].sample)
    for own, caught in zip((*once.grids, once.heat), (*twice.grids, twice.heat), strict=True):
        torch.testing.assert_close(caught, own)


def test_eyes_that_look_twice_are_other_eyes(
    scorer: HMRScorer, mirrored_policy: DiffusionPolicy, body: Body, tmp_path
):
    folder = scorer.save(tmp_path)  # its policy is the same object: fitted through both looks
    mirrored_policy.config.mirror_look = False
    with pytest.raises(ValueError, match="another policy's encoder"):
        HMRScorer.load(folder, mirrored_policy, body)


def test_what_cannot_be_loaded_is_said(scorer: HMRScorer, tiny_policy: DiffusionPolicy, body: Body, tmp_path):
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
    ("fault", "says"),
    [({"errors": ("mae",)}, "mpjpe_mm"), ({"errors": ()}, "nothing"), ({"noisy": 1}, "at least 2")],
)
def test_settings_that_make_no_sense_are_refused(fault: dict, says: str):
    with pytest.raises(ValueError, match=says):
        ScorerTraining(**fault)


def test_it_needs_cases_and_held_out_ones(tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]):
    with pytest.raises(ValueError, match="held-out"):
        train_hmr_scorer(tiny_policy, body, cases, [], QUICK)
