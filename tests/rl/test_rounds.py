"""Rounds share one budget, learn from the round before, and go on where they were killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hmr.policy import DiffusionPolicy
from hmr.progress import Stage
from hmr.types import Box, Camera, Hypotheses, Sample
from rl.preferences import load_preferences, shuffle_scores
from rl.rounds import Rounds, align_in_rounds, align_once

ALIGNMENT: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
}


class Depth:
    """Likes bodies that are far away; counts what it was asked."""

    name = "depth"

    def __init__(self, patience: int = 1000) -> None:
        self.asked: list[str] = []
        self.patience = patience

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        if len(self.asked) == self.patience:
            raise KeyboardInterrupt
        self.asked.append(sample.id)
        return hypotheses.params.transl[:, 2].tolist()


@pytest.fixture
def wild() -> list[Sample]:
    rng = np.random.default_rng(0)
    image = (96, 96, 3)
    return [
        Sample(
            f"wild-{n}",
            rng.integers(0, 255, image, dtype=np.uint8),
            Box(8.0, 8.0, 80.0, 88.0),
            Camera.estimate(96, 96),
        )
        for n in range(4)
    ]


def _align(
    policy: DiffusionPolicy, scorer: Depth, wild: Sequence[Sample], out: Path, count: int, **more: Any
) -> DiffusionPolicy:
    rounds = Rounds(count, group_size=3, seed=5)
    return align_in_rounds(
        policy, scorer, wild, out, ALIGNMENT, rounds, lambda title, total: lambda done: None, **more
    )


def _weights(policy: DiffusionPolicy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.denoiser.parameters()])


def test_each_image_is_scored_once_however_many_rounds(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    scorer = Depth()
    _align(tiny_policy, scorer, wild, tmp_path, 2)
    assert sorted(scorer.asked) == [sample.id for sample in wild]


def test_the_second_round_samples_from_what_the_first_made(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    last = _align(tiny_policy, Depth(), wild, tmp_path, 2)
    sampled_by = [
        set(load_preferences(tmp_path / f"round-{k}" / "groups")["policy_digest"]) for k in range(2)
    ]
    assert sampled_by[0] == {tiny_policy.digest()}
    assert sampled_by[1].isdisjoint({tiny_policy.digest(), last.digest()})
    assert not torch.equal(_weights(last), _weights(tiny_policy))


def test_the_last_policy_is_what_evaluate_reads(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    last = _align(tiny_policy, Depth(), wild, tmp_path, 1)
    torch.testing.assert_close(_weights(DiffusionPolicy.from_pretrained(tmp_path)), _weights(last))


def test_a_second_run_does_nothing_again(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    first = _align(tiny_policy, Depth(), wild, tmp_path, 2)
    again = _align(tiny_policy, Depth(patience=0), wild, tmp_path, 2)
    assert torch.equal(_weights(first), _weights(again))


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_where_a_whole_one_does(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt):
        _align(tiny_policy, Depth(patience=3), wild, tmp_path / "cut", 2)  # in the middle of the second round
    resumed = _align(tiny_policy, Depth(), wild, tmp_path / "cut", 2)
    assert torch.equal(_weights(whole), _weights(resumed))


def _cut_at(step: int) -> Stage:
    """Ends the run at that step of training, as a kill would."""

    def stage(title: str, total: int) -> Callable[[int], None]:
        def tick(done: int) -> None:
            if "aligning" in title and done == step:
                raise KeyboardInterrupt

        return tick

    return stage


@pytest.mark.slow
def test_a_run_killed_in_training_goes_on_from_its_checkpoint(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    saving = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 1}
    rounds = Rounds(1, group_size=3, seed=5)
    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        align_in_rounds(tiny_policy, Depth(), wild, tmp_path / "cut", saving, rounds, _cut_at(3))
    steps: list[int] = []
    resumed = align_in_rounds(
        tiny_policy, Depth(patience=0), wild, tmp_path / "cut", saving, rounds, _listening(steps)
    )
    assert torch.equal(_weights(whole), _weights(resumed))
    assert len(steps) < 4  # the first ones were not taken again


def test_another_loss_does_not_take_up_the_checkpoints_of_the_first(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    saving = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 1}
    rounds = Rounds(1, group_size=3, seed=5)
    with pytest.raises(KeyboardInterrupt):
        align_in_rounds(tiny_policy, Depth(), wild, tmp_path, saving, rounds, _cut_at(3))
    steps: list[int] = []
    other = {**saving, "loss_type": "sft"}
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, other, rounds, _listening(steps))
    assert len(steps) == 4


def _listening(steps: list[int]) -> Stage:
    def stage(title: str, total: int) -> Callable[[int], None]:
        return steps.append if "aligning" in title else lambda done: None

    return stage


@pytest.mark.slow
def test_a_control_learns_from_other_scores(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    seen: list[int] = []

    def shuffle(groups: Dataset, seed: int) -> Dataset:
        seen.append(seed)
        return shuffle_scores(groups, seed)

    straight = _align(tiny_policy, Depth(), wild, tmp_path / "straight", 2)
    control = _align(tiny_policy, Depth(), wild, tmp_path / "control", 2, rescore=shuffle)
    assert seen == [5, 6]
    assert not torch.equal(_weights(straight), _weights(control))


@pytest.mark.parametrize("count", [0, 5])
def test_more_rounds_than_images_are_refused(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path, count: int
) -> None:
    with pytest.raises(ValueError, match="round"):
        _align(tiny_policy, Depth(), wild, tmp_path, count)


def test_hypotheses_cannot_be_drawn_without_photographs(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    _align(tiny_policy, Depth(), wild, tmp_path, 1)
    groups = load_preferences(tmp_path / "round-0" / "groups")
    with pytest.raises(ValueError, match=r"table_steps draws .* needs the samples"):
        align_once(tiny_policy, groups, tmp_path / "p", {**ALIGNMENT, "table_steps": 1}, 0, lambda step: None)
