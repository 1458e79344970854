"""The noise scale at which the base policy has the spread of another one."""

import pytest
import torch

from eval.benchmark.matched_spread import SPREAD_TOLERANCE, NoiseScaledPolicy, SpreadAtScale, matching_scale
from eval.benchmark.protocol import evaluate_policy
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Labelled


@pytest.fixture(scope="module")
def cases(body: Body) -> list[Labelled]:
    return [scene.labelled for scene in SceneMaker(body, WILD, seed=3).chunk(0, 3)]


class Counted:
    """100 mm at scale 1, growing as the given power of the scale."""

    def __init__(self, power: float) -> None:
        self.power, self.calls = power, 0

    def __call__(self, scale: float) -> float:
        self.calls += 1
        return 100 * scale**self.power


@pytest.mark.parametrize("target_mm", [20.0, 60.0, 99.5, 180.0])
@pytest.mark.parametrize("power", [0.5, 0.73, 1.0])
def test_a_power_law_takes_two_steps(power: float, target_mm: float) -> None:
    spread_at = Counted(power)
    scale = matching_scale(spread_at, 100.0, target_mm)
    assert 100 * scale**power == pytest.approx(target_mm, rel=SPREAD_TOLERANCE)
    assert spread_at.calls <= 2


def test_the_scale_of_a_saturating_curve_is_found() -> None:
    # 120 s / (.2 + s): 100 mm at scale 1, never above 120; 60 mm at s = .2.
    scale = matching_scale(lambda scale: 120 * scale / (0.2 + scale), 100.0, 60.0)
    assert scale == pytest.approx(0.2, rel=0.05)


def test_a_spread_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no noise scale .* from 100\.0 to 150\.0 mm"):
        matching_scale(lambda scale: 100.0, 100.0, 150.0)
    with pytest.raises(ValueError, match=r"from 100\.0 to 150\.0 mm"):
        matching_scale(lambda scale: 120 * scale / (0.2 + scale), 100.0, 150.0)


def test_the_match_uses_the_evaluated_samples(
    tiny_policy: DiffusionPolicy, body: Body, cases: list[Labelled]
) -> None:
    def evaluated(policy: DiffusionPolicy | NoiseScaledPolicy) -> float:
        return evaluate_policy(policy, body, cases, num_samples=6, group_size=3, seed=4).spread_mm()

    spread_at = SpreadAtScale(tiny_policy, body, cases, num_samples=6, seed=4)
    base_mm = evaluated(tiny_policy)
    assert spread_at(1.0) == pytest.approx(base_mm, rel=1e-5)
    scale = matching_scale(spread_at, base_mm, 0.6 * base_mm)
    assert evaluated(NoiseScaledPolicy(tiny_policy, scale)) == pytest.approx(
        0.6 * base_mm, rel=1.01 * SPREAD_TOLERANCE
    )
    assert SpreadAtScale(tiny_policy, body, cases, num_samples=6, seed=5)(1.0) != pytest.approx(base_mm)


def test_without_noise_all_hypotheses_are_hypothesis_0(
    tiny_policy: DiffusionPolicy, cases: list[Labelled], body: Body
) -> None:
    noiseless = NoiseScaledPolicy(tiny_policy, 0.0)
    features = noiseless.encode([cases[0].sample])
    group = noiseless.sample(features, 4, torch.Generator().manual_seed(0))[0]
    base = tiny_policy.sample(features, 4, torch.Generator().manual_seed(0))[0]
    for index in range(4):
        torch.testing.assert_close(body.joints(group.params)[index], body.joints(base.params)[0])
