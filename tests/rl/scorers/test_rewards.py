"""Reward functions: worked sums of the table in rl/scorers/rewards.py, and the errors."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.body.model import Body
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample, Scorer
from rl.preferences.build import load_preferences
from rl.scorers.rewards import RewardMix, load_reward
from tests.rl.preferences.test_build import build

SAMPLE = Sample("a", np.zeros((8, 6, 3), np.uint8), Box(0.0, 0.0, 6.0, 8.0), Camera.estimate(6, 8))
HYPOTHESES = Hypotheses(
    BodyParams(torch.zeros(4, 3), torch.zeros(4, 23, 3), torch.zeros(4, 10), torch.arange(12.0).view(4, 3)),
    SAMPLE.camera,
)


def constant(name, *scores):
    """A reward function with this name that always returns these scores."""

    def function(*, sample, hypotheses, **kwargs):
        return list(scores)

    function.__name__ = name
    return function


def depth(*, hypotheses, **kwargs):
    return hypotheses.params.transl[:, 2].tolist()


def depth_alone(*, sample, hypotheses):
    return depth(hypotheses=hypotheses)


class Constant:
    name = "constant"
    uses_truth = True

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return [1.0] * len(hypotheses)


def test_one_function_is_a_scorer():
    mix = RewardMix([depth])
    assert isinstance(mix, Scorer)
    assert mix.score(SAMPLE, HYPOTHESES) == [2.0, 5.0, 8.0, 11.0]
    assert (mix.name, mix.uses_truth) == ("raw(1*depth)", False)


def test_a_weighted_sum_of_functions_and_scorers():
    mix = RewardMix([depth, Constant()], [0.5, -2.0])
    # half of 2, 5, 8 and 11, less 2
    assert mix.score(SAMPLE, HYPOTHESES) == [-1.0, 0.5, 2.0, 3.5]
    assert mix.name == "raw(0.5*depth + -2*constant)"
    assert mix.uses_truth  # as soon as one of them does


def test_a_missing_score_counts_as_the_mean_of_its_group():
    mix = RewardMix([constant("a", 10.0, None, 40.0, None), constant("b", 1.0, 2.0, None, None)], [1.0, 10.0])
    # means: a 25, b 1.5; so 10 + 10, 25 + 20, 40 + 15, and no function scored the last
    assert mix.score(SAMPLE, HYPOTHESES) == [20.0, 45.0, 55.0, None]


def test_a_function_without_scores_changes_nothing():
    alone = RewardMix([depth]).score(SAMPLE, HYPOTHESES)
    assert RewardMix([depth, constant("missing", *[None] * 4)]).score(SAMPLE, HYPOTHESES) == alone
    assert RewardMix([depth, constant("missing", *[None] * 4)], normalize=True).score(SAMPLE, HYPOTHESES) == (
        RewardMix([depth], normalize=True).score(SAMPLE, HYPOTHESES)
    )


def test_normalised_functions_have_the_given_weights():
    mix = RewardMix(
        [constant("big", 0.0, 0.0, 200.0, 200.0), constant("small", 0.0, 0.2, 0.0, 0.2)], [2.0, 1.0], True
    )
    # big: mean 100, std 100 -> -1, -1, 1, 1; small: mean .1, std .1 -> -1, 1, -1, 1
    assert mix.score(SAMPLE, HYPOTHESES) == pytest.approx([-3.0, -1.0, 1.0, 3.0])


def test_normalised_a_missing_score_is_no_opinion():
    mix = RewardMix([constant("a", 1.0, None, 3.0, None), constant("b", 0.0, 2.0, 0.0, None)], normalize=True)
    # a: mean 2, std 1 -> -1, 0, 1; b: mean 2/3, std sqrt(8)/3 -> -.707, 1.414, -.707
    assert mix.score(SAMPLE, HYPOTHESES) == pytest.approx([-1.7071, 1.4142, 0.2929, None], abs=1e-4)


def test_normalised_equal_scores_are_not_blown_up_by_rounding():
    mix = RewardMix([constant("same", 0.1 + 0.2, 0.3, 0.3, 0.3)], normalize=True)
    assert mix.score(SAMPLE, HYPOTHESES) == [0.0] * 4


def test_the_mix_is_trls_where_functions_answer_for_whole_groups():
    """TRL 1.16's arithmetic: nansum of weighted scores, then (within the group) centred."""
    given = torch.tensor([[3.0, 1.0, 4.0, 1.5], [torch.nan] * 4, [2.0, 7.0, 1.0, 8.0]])
    weights = torch.tensor([1.0, 5.0, 0.3])
    trl = (given * weights[:, None]).nansum(dim=0)
    rows = [[None if value != value else value for value in row] for row in given.tolist()]
    mix = RewardMix([constant(f"f{k}", *row) for k, row in enumerate(rows)], weights.tolist())
    ours = torch.tensor(mix.score(SAMPLE, HYPOTHESES))
    torch.testing.assert_close(ours - ours.mean(), trl - trl.mean())


def high(*, joints_cam_m, **kwargs):
    assert joints_cam_m.shape == (4, 24, 3)
    return (-joints_cam_m[:, 0, 1]).tolist()


def test_with_a_body_functions_are_told_the_joints(body: Body):
    scores = RewardMix([high], body=body).score(SAMPLE, HYPOTHESES)
    assert scores == sorted(
        scores, reverse=True
    )  # transl's y grows by 3 m from one to the next, and y points down


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_funcs": []}, "at least one function"),
        ({"reward_funcs": [depth, depth]}, "need different names, not depth, depth"),
        ({"reward_funcs": [depth], "reward_weights": [1.0, 2.0]}, "1 reward functions need as many weights"),
        ({"reward_funcs": [functools.partial(depth)]}, "has no name"),
        (
            {"reward_funcs": [lambda prompts, completions: []]},
            "called with the arguments sample, hypotheses, and also requires completions, prompts$",
        ),
        ({"reward_funcs": [lambda hypotheses: []]}, r"end with \*\*kwargs"),
        (
            {"reward_funcs": [high]},
            r"also requires joints_cam_m; for joints_cam_m pass body=load_body\(\)",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_is_sampled(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardMix(**settings)


@pytest.mark.parametrize(
    ("scores", "message"), [((1.0,), "1 scores for 4"), ((float("nan"),) * 4, "never NaN")]
)
def test_answers_that_are_no_scores_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        RewardMix([constant("wrong", *scores)]).score(SAMPLE, HYPOTHESES)


def test_each_functions_scores_are_kept_with_the_group(tmp_path: Path):
    mix = RewardMix([depth, constant("half", 1.0, None, 3.0)], [1.0, 0.5])
    dataset = load_preferences(build(tmp_path, scorer=mix))
    row = dataset[0]
    assert row["rewards/half"] == [1.0, None, 3.0]
    assert row["scores"] == pytest.approx(
        [d + 0.5 * h for d, h in zip(row["rewards/depth"], [1.0, 2.0, 3.0], strict=True)]
    )


def test_a_loaded_function_is_told_the_joints_if_it_takes_them(body: Body):
    found = load_reward("tests.rl.scorers.test_rewards:high", body).score(SAMPLE, HYPOTHESES)
    assert found == RewardMix([high], body=body).score(SAMPLE, HYPOTHESES)
    assert load_reward("tests.rl.scorers.test_rewards:depth_alone", body).score(SAMPLE, HYPOTHESES) == [
        2.0, 5.0, 8.0, 11.0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="joints_cam_m"):
        load_reward("tests.rl.scorers.test_rewards:high")


def test_rewards_are_loaded_by_the_path_that_a_person_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(
        "from rl.scorers.rewards import RewardMix\n"
        "def one(*, hypotheses, **kwargs):\n    return [1.0] * len(hypotheses)\n"
        "both = RewardMix([one], [3.0])\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_reward("mine.py:one").score(SAMPLE, HYPOTHESES) == [1.0] * 4
    assert load_reward("mine.py:both").score(SAMPLE, HYPOTHESES) == [3.0] * 4
    assert load_reward("tests.rl.scorers.test_rewards:depth").name == "raw(1*depth)"
    for where, message in {
        "mine.py": "MODULE:NAME or FILE.py:NAME",
        "mine.py:two": "it has RewardMix, one",
        "mine.py:number": "neither a reward function nor a Scorer but of type int",
        "no_such_module:one": "there is no module 'no_such_module'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_reward(where)
    with pytest.raises(FileNotFoundError, match=r"yours\.py"):
        load_reward("yours.py:one")
