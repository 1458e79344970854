"""The loss `resample`: which hypotheses it draws, what it teaches, and what it refuses."""

import copy

import numpy as np
import pytest
import torch

from common.seeding import derive_generator
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.losses import predict_bodies
from hmr.types import JOINT_NAMES, NUM_JOINTS, Box, Camera, Detection, Sample
from rl.config import GroupPreferenceConfig
from rl.imitation import LABEL_EPOCHS, drawn_by_score, steps_on_labels
from rl.losses import LossSettings, log_ratio, weighted
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer, align
from tests.rl.toy import ToyPolicy, toy_groups

IMAGES, GROUP = 4, 5


@pytest.fixture
def policy(tiny_policy) -> DiffusionPolicy:
    return tiny_policy


@pytest.fixture
def groups(policy) -> GroupTensors:
    """The first hypothesis of each group has the highest score."""
    image, box = np.zeros((64, 64, 3), np.uint8), Box(8.0, 8.0, 56.0, 56.0)
    samples = [Sample(f"image {number}", image, box, Camera.estimate(64, 64)) for number in range(IMAGES)]
    condition = policy.encode(samples, [detection(number) for number in range(IMAGES)]).condition
    x0 = 0.5 * torch.randn(IMAGES, GROUP, 157, generator=derive_generator("groups"))
    return GroupTensors.from_scores(condition, x0, [[90.0, 10.0, 5.0, 0.0, None]] * IMAGES)


def detection(number: int) -> Detection:
    points_px = 32 + 10 * torch.randn(NUM_JOINTS, 2, generator=derive_generator("points", number))
    return Detection.from_points(
        JOINT_NAMES, points_px, torch.full((NUM_JOINTS,), 2.0), torch.ones(NUM_JOINTS)
    )


def config(folder, **changes) -> GroupPreferenceConfig:
    fields = {
        "output_dir": str(folder),
        "loss_type": "resample",
        "max_steps": 30,
        "per_device_train_batch_size": IMAGES,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "learning_rate": 3e-3,
        "ema_decay": 0.0,
        "spread_steps": 0,
    }
    return GroupPreferenceConfig(**{**fields, **changes})


def estimate_error(policy: DiffusionPolicy, groups: GroupTensors, hypothesis: int) -> float:
    estimate = policy.initial_estimate(groups.condition[:, : policy.feature_size])
    return float((estimate - groups.x0[:, hypothesis]).abs().mean())


# -- drawing -------------------------------------------------------------------------------------------------


def test_hypotheses_are_drawn_in_proportion_to_the_softmax_of_their_advantages():
    advantages, mask = torch.tensor([[1.0, 0.0, -1.0, 3.0]]), torch.tensor([[True, True, True, False]])
    generators = [derive_generator("draw", number) for number in range(4000)]
    drawn = drawn_by_score(advantages.expand(4000, -1), mask.expand(4000, -1), 0.5, generators)
    shares = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.cat([(advantages[0, :3] / 0.5).softmax(dim=0), torch.zeros(1)])
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)


def test_a_low_temperature_draws_the_best_and_the_same_generator_the_same():
    advantages, mask = torch.tensor([[0.1, 2.0, 0.3]]), torch.ones(1, 3, dtype=torch.bool)
    assert drawn_by_score(advantages, mask, 1e-3, [derive_generator("a")]).tolist() == [1]
    first, again = (drawn_by_score(advantages, mask, 5.0, [derive_generator("b")]) for _ in range(2))
    assert torch.equal(first, again)


def test_its_expected_gradient_is_that_of_the_weighted_loss(policy, groups):
    settings = LossSettings(beta=10.0, temperature=0.5)
    model = copy.deepcopy(policy).requires_grad_(True)
    times, noise = (
        torch.full((IMAGES, 1), 400),
        torch.randn(IMAGES, 1, 157, generator=derive_generator("noise")),
    )
    error = model(groups.condition, groups.x0, times, noise)
    loss = weighted(log_ratio(error, error.detach(), settings.beta), groups.advantages, groups.mask, settings)
    loss.backward()
    gradient = model.denoiser.head.weight.grad.clone()

    model.zero_grad()
    masked = (groups.advantages / settings.temperature).masked_fill(~groups.mask, -torch.inf)
    for hypothesis in range(GROUP - 1):
        for image in range(IMAGES):
            found = predict_bodies(
                model,
                groups.condition[image : image + 1],
                groups.x0[image : image + 1, hypothesis],
                times[:1],
                noise[image : image + 1],
            )
            (masked.softmax(dim=1)[image, hypothesis] * found.denoise / IMAGES).backward()
    scored = (GROUP - 1) / GROUP  # `weighted` counts hypotheses without a score as zeros
    torch.testing.assert_close(
        gradient, settings.beta * scored * model.denoiser.head.weight.grad, atol=1e-4, rtol=1e-3
    )


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_estimate", [False, True])
def test_the_estimate_moves_to_the_best_hypotheses_if_it_is_trained(policy, groups, tmp_path, train_estimate):
    aligned = align(policy, groups, config(tmp_path, train_estimate=train_estimate))
    before, after = (estimate_error(each, groups, 0) for each in (policy, aligned))
    assert (after < 0.9 * before) == train_estimate
    assert (after == before) == (not train_estimate)
    assert aligned.digest() != policy.digest()


def test_lora_adapts_the_estimate_as_well_as_the_denoiser(policy, groups, tmp_path):
    aligned = align(policy, groups, config(tmp_path, train_estimate=True, lora_rank=1))
    before, after = policy.state_dict(), aligned.state_dict()
    assert before.keys() == after.keys()
    for name in ("denoiser.from_x.weight", "regressor.first.weight"):
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) == 1
    assert torch.equal(after["regressor.first.bias"], before["regressor.first.bias"])


def test_the_denoising_error_falls_on_the_best_more_than_on_the_worst(policy, groups, tmp_path):
    aligned = align(policy, groups, config(tmp_path, train_estimate=False))
    times, noise = (
        torch.full((IMAGES, 1), 600),
        torch.randn(IMAGES, 1, 157, generator=derive_generator("test")),
    )
    with torch.no_grad():
        change = aligned(groups.condition, groups.x0, times, noise) - policy(
            groups.condition, groups.x0, times, noise
        )
    assert change[:, 0].mean() < change[:, 3].mean()
    assert change[:, 0].mean() < 0


def test_a_group_of_one_is_imitated_as_it_is(policy, groups, tmp_path):
    """Supervised fine-tuning: the truth is the only hypothesis."""
    mask = torch.ones(IMAGES, 1, dtype=torch.bool)
    truth = GroupTensors(
        groups.condition, groups.x0[:, 2:3], torch.zeros(IMAGES, 1), mask, torch.zeros(IMAGES, 1)
    )
    aligned = align(policy, truth, config(tmp_path, train_estimate=True))
    assert estimate_error(aligned, groups, 2) < 0.9 * estimate_error(policy, groups, 2)


def test_terms_are_logged_and_the_same_seed_gives_the_same_policy(policy, groups, tmp_path):
    trainer = GroupPreferenceTrainer(
        copy.deepcopy(policy), config(tmp_path, max_steps=2, train_estimate=True), groups
    )
    trainer.train()
    names = {f"{name}_loss/resampled" for name in ("denoise", "x0_joints", "regression")}
    assert names <= set(trainer.state.log_history[0])
    first, again = (align(policy, groups, config(tmp_path, max_steps=3)) for _ in range(2))
    assert first.digest() == again.digest()


def test_images_without_a_score_teach_nothing(policy, groups, tmp_path):
    """A second set, in which a further image has no score, gives nearly the same policy as the first."""
    last = groups.condition[:1]
    more = GroupTensors(
        torch.cat([groups.condition, last]),
        torch.cat([groups.x0, 100 + groups.x0[:1]]),
        torch.cat([groups.advantages, torch.zeros(1, GROUP)]),
        torch.cat([groups.mask, torch.zeros(1, GROUP, dtype=torch.bool)]),
        torch.cat([groups.scores, torch.full((1, GROUP), torch.nan)]),
    )
    arguments = config(tmp_path, max_steps=5, per_device_train_batch_size=IMAGES + 1, train_estimate=True)
    aligned = align(policy, more, arguments)
    assert estimate_error(aligned, groups, 0) < 1.05 * estimate_error(policy, groups, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spread_weight": 1.0}, "no replay_weight and no spread_weight"),
        ({"replay_weight": 1.0, "replay_file": "x"}, "no replay_weight and no spread_weight"),
        ({"loss_type": "clip", "train_estimate": True}, "train_estimate needs loss_type resample, not clip"),
    ],
)
def test_what_is_left_out_is_refused(policy, groups, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        align(policy, groups, config(tmp_path, **changes))


def test_another_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a DiffusionPolicy, not ToyPolicy"):
        align(ToyPolicy(), toy_groups(), config(tmp_path))


@pytest.mark.parametrize(("images", "batch_size", "steps"), [(1600, 128, 200), (256, 128, 32), (2, 128, 1)])
def test_labels_are_seen_equally_often_whatever_their_number(images: int, batch_size: int, steps: int):
    assert steps_on_labels(images, batch_size) == steps
    assert steps_on_labels(images, batch_size, epochs=2 * LABEL_EPOCHS) in (2 * steps, 2 * steps - 1)
