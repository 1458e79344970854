"""The contract of every loss in `rl.losses.LOSSES`; a new loss adds one line to that dictionary."""

import math

import pytest
import torch

from rl.advantages import advantages_of
from rl.losses import LOSSES, LossSettings, log_ratio

BATCH, GROUP, STEPS = 3, 6, 2
SETTINGS = LossSettings()
BOUNDED = ["clip", "weighted", "quadratic", "dpo", "kto", "sft"]
BY_RANK = ["clip", "weighted", "quadratic", "linear"]  # the others use only the best, or the side of the mean


@pytest.fixture(params=sorted(LOSSES))
def loss(request):
    return LOSSES[request.param]


def draw(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    reference = 0.5 + torch.rand(BATCH, GROUP, STEPS, generator=generator)
    advantages = torch.randn(BATCH, GROUP, generator=generator)
    mask = torch.ones(BATCH, GROUP, dtype=torch.bool)
    return reference, advantages, mask


def test_zero_at_the_reference(loss):
    reference, advantages, mask = draw()
    value = loss(log_ratio(reference.clone(), reference, SETTINGS.beta), advantages, mask, SETTINGS)
    assert value.item() == 0


def test_first_step_lowers_the_error_of_the_better_ones(loss):
    reference, advantages, mask = draw()
    error = reference.clone().requires_grad_()
    loss(log_ratio(error, reference, SETTINGS.beta), advantages, mask, SETTINGS).backward()
    assert (error.grad[advantages > 0] >= 0).all()
    best = advantages.argmax(dim=-1)
    assert (error.grad[torch.arange(BATCH), best] > 0).all()


@pytest.mark.parametrize("name", BY_RANK)
def test_better_hypotheses_have_larger_gradients(name):
    loss = LOSSES[name]
    reference, advantages, mask = draw()
    error = reference.clone().requires_grad_()
    loss(log_ratio(error, reference, SETTINGS.beta), advantages, mask, SETTINGS).backward()
    order = advantages.argsort(dim=-1)
    gradients = error.grad[..., 0].gather(1, order)
    assert (gradients.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_below(name):
    """After long gradient descent on free errors >= 0, the loss and the errors have converged."""
    reference, advantages, mask = draw()
    root = reference.sqrt().clone().requires_grad_()  # error = root^2 >= 0
    optimizer = torch.optim.Adam([root], lr=0.05)
    values = []
    for _ in range(500):
        value = LOSSES[name](log_ratio(root.square(), reference, SETTINGS.beta), advantages, mask, SETTINGS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] == pytest.approx(min(values), abs=0.05)
    assert root.square().max() < 3


def test_clip_is_bounded_by_its_epsilon():
    _, advantages, mask = draw()
    ratio = torch.randn(BATCH, GROUP, STEPS, generator=torch.Generator().manual_seed(1)) * 1000
    bound = -(advantages.abs() * SETTINGS.epsilon).mean()
    assert LOSSES["clip"](ratio, advantages, mask, SETTINGS) >= bound


@pytest.mark.parametrize(("name", "bound"), [("dpo", -math.log(2)), ("kto", -0.5)])
def test_a_bound_holds_however_far_the_ratio_goes(name, bound):
    _, advantages, mask = draw()
    ratio = torch.randn(BATCH, GROUP, STEPS, generator=torch.Generator().manual_seed(1)) * 1000
    assert LOSSES[name](ratio, advantages, mask, SETTINGS) >= bound


def test_dpo_and_sft_ignore_the_middle_of_a_group():
    reference, _, mask = draw()
    advantages = torch.tensor([[-1.0, 2.0, 0.5, 0.1, -2.0, -0.5]]).expand(BATCH, -1)
    signs = {}
    for name in ("dpo", "sft"):
        error = reference.clone().requires_grad_()
        LOSSES[name](log_ratio(error, reference, SETTINGS.beta), advantages, mask, SETTINGS).backward()
        signs[name] = error.grad[0, :, 0].sign().tolist()
    assert signs == {"dpo": [0, 1, 0, 0, -1, 0], "sft": [0, 1, 0, 0, 0, 0]}


def test_a_group_of_equals_has_no_best_and_no_worst():
    ratio = torch.randn(1, GROUP, STEPS, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(1, GROUP, dtype=torch.bool)
    assert LOSSES["dpo"](ratio, torch.zeros(1, GROUP), mask, SETTINGS) == 0
    assert LOSSES["kto"](ratio, torch.zeros(1, GROUP), mask, SETTINGS) == 0


def test_linear_is_not_bounded():
    reference, advantages, mask = draw()
    worst = advantages < 0
    values = [
        LOSSES["linear"](
            log_ratio(reference + push * worst[..., None], reference, SETTINGS.beta),
            advantages,
            mask,
            SETTINGS,
        )
        for push in (1.0, 100.0, 10_000.0)
    ]
    assert values[2] < 50 * values[1] < 2500 * values[0] < 0


def test_order_of_the_group_does_not_matter(loss):
    _, advantages, mask = draw()
    mask[0, 2] = False
    ratio = torch.randn(BATCH, GROUP, STEPS, generator=torch.Generator().manual_seed(2))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    expected = loss(ratio, advantages, mask, SETTINGS)
    found = loss(ratio[:, order], advantages[:, order], mask[:, order], SETTINGS)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 64.0), (4.0, 0.0), (0.25, -8.0)])
def test_shift_and_scale_of_the_scores_do_not_matter(loss, scale, shift):
    scores = [3.0, 1.0, None, 8.0, 2.0, 2.0]
    moved = [None if score is None else scale * score + shift for score in scores]
    ratio = torch.randn(1, GROUP, STEPS, generator=torch.Generator().manual_seed(3))
    x0 = torch.zeros(1, GROUP, 1)
    expected = loss(ratio, *advantages_of([scores], x0), SETTINGS)
    torch.testing.assert_close(loss(ratio, *advantages_of([moved], x0), SETTINGS), expected)


def test_masked_hypotheses_have_no_gradient(loss):
    reference, advantages, mask = draw()
    mask[1] = False
    mask[0, 3] = False
    error = (reference * 1.01).requires_grad_()
    loss(log_ratio(error, reference, SETTINGS.beta), advantages, mask, SETTINGS).backward()
    assert not error.grad[~mask].any()
    assert error.grad[mask].any()


def test_batches_of_one_size_add_up(loss):
    """Gradient accumulation: the mean over two halves equals the loss of the whole batch."""
    _, advantages, mask = (torch.cat(pair) for pair in zip(draw(0), draw(1), strict=True))
    mask[:2] = False
    ratio = torch.randn(2 * BATCH, GROUP, STEPS, generator=torch.Generator().manual_seed(4))
    halves = [
        loss(ratio[part], advantages[part], mask[part], SETTINGS)
        for part in (slice(0, BATCH), slice(BATCH, None))
    ]
    torch.testing.assert_close(sum(halves) / 2, loss(ratio, advantages, mask, SETTINGS))


def test_differences_are_taken_in_float32():
    # both are bfloat16's own (8 binary digits), their difference 1 - 2^-9 = .998046875 has 9: bfloat16 rounds it to 1
    error, reference = (torch.full((1, 1, 1), value).bfloat16() for value in (1.0, 2**-9))
    assert (error - reference).item() == 1.0
    ratio = log_ratio(error, reference, 10.0)
    assert ratio.dtype == torch.float32
    assert ratio.item() == -9.98046875


def test_dpo_is_adhmrs():
    """Their formula, of errors: -log sigma(-beta / 2 ((l_w - l_l) - (ref_w - ref_l))), beta 100."""
    error, reference = torch.tensor([[[0.30], [0.52]]]), torch.tensor([[[0.32], [0.50]]])
    # delta_theta = -.22, delta_ref = -.18; -50 * -.04 = 2; log(1 + exp(-2)) = .126928; log 2 makes the reference 0
    settings = LossSettings(beta=100.0)
    ratio = log_ratio(error, reference, settings.beta)
    value = LOSSES["dpo"](ratio, torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool), settings)
    assert value.item() == pytest.approx(0.126928 - math.log(2), abs=1e-5)


def test_a_relative_trust_region_divides_by_the_mean_error_of_the_group():
    reference = torch.tensor([[[1.0, 0.2], [3.0, 0.6]]])  # means over the group at the two times: 2 and .4
    error = reference + torch.tensor([[[0.2, 0.04], [-0.2, -0.04]]])
    # -10 * .2 / 2 = -1 and -10 * .04 / .4 = -1: a tenth of L_ref(t) is as far at both times
    found = log_ratio(error, reference, 10.0, "relative")
    torch.testing.assert_close(found, torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]))


def test_worked_sums():
    # One group of two, A = (1, -2), r = (0.5, -0.1), epsilon 0.2, penalty 2.
    ratio, advantages = torch.tensor([[[0.5], [-0.1]]]), torch.tensor([[1.0, -2.0]])
    mask, settings = (
        torch.ones(1, 2, dtype=torch.bool),
        LossSettings(epsilon=0.2, temperature=1.0, penalty=2.0),
    )
    values = {name: some(ratio, advantages, mask, settings).item() for name, some in LOSSES.items()}
    expected = {
        # one hypothesis after the other: -1 * min(.5, .2) = -.2 and 2 * max(-.1, -.2) = -.2
        "clip": -0.2,
        # the pair is -1 * .5 = -.5 and 2 * -.1 = -.2
        "linear": -0.35,
        # as linear, with 2 / 2 * .25 and 2 / 2 * .01 on top
        "quadratic": -0.35 + 0.13,
        # softmax of (1, -2) is (.952574, .047426), times 2: -1.905148 * .5 and -.094852 * -.1
        "weighted": (-0.952574 + 0.0094852) / 2,
        # softplus(-(.5 + .1) / 2) = log(1 + exp(-.3)) = .554355, minus log 2 = .693147
        "dpo": 0.554355 - 0.693147,
        # z = mean of (.5, -.1) = .2: .5 - sigma(.3) = -.0744425 and .5 - sigma(.2 + .1) = -.0744425
        "kto": -0.0744425,
        # 2 * -.5 for the best and 0 for the other
        "sft": -0.5,
    }
    assert values == pytest.approx(expected, abs=1e-6)
