"""Rounds share one budget, train on samples of the round before, and resume after a kill."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import rl.rounds as rounds_module
from common.progress import Stage
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Hypotheses, Sample
from rl.labels.body_labels import BodyLabels
from rl.monitoring.training_log import read_logs
from rl.preferences.build import load_preferences, shuffle_scores
from rl.rounds import Rounds, align_in_rounds, align_once, finished_policy
from rl.trainer import align

ALIGNMENT: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
}


class Depth:
    """Scores by depth and records the samples; raises KeyboardInterrupt after `patience` of them."""

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


@pytest.mark.slow
def test_each_image_is_scored_once_however_many_rounds(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    scorer = Depth()
    _align(tiny_policy, scorer, wild, tmp_path, 2)
    assert sorted(scorer.asked) == [sample.id for sample in wild]


def test_the_second_round_samples_from_the_policy_of_the_first(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    last = _align(tiny_policy, Depth(), wild, tmp_path, 2)
    sampled_by = [
        set(load_preferences(tmp_path / f"round-{k}" / "groups")["policy_digest"]) for k in range(2)
    ]
    assert sampled_by[0] == {tiny_policy.digest()}
    assert sampled_by[1].isdisjoint({tiny_policy.digest(), last.digest()})
    assert not torch.equal(_weights(last), _weights(tiny_policy))
    assert last.detector is tiny_policy.detector


def test_the_last_policy_is_saved_for_evaluate(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    last = _align(tiny_policy, Depth(), wild, tmp_path, 1)
    torch.testing.assert_close(_weights(DiffusionPolicy.from_pretrained(tmp_path)), _weights(last))


def test_a_second_run_computes_nothing(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    first = _align(tiny_policy, Depth(), wild, tmp_path, 2)
    again = _align(tiny_policy, Depth(patience=0), wild, tmp_path, 2)
    assert torch.equal(_weights(first), _weights(again))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 2)
    with pytest.raises(KeyboardInterrupt):
        _align(tiny_policy, Depth(patience=3), wild, tmp_path / "cut", 2)  # in the middle of the second round
    resumed = _align(tiny_policy, Depth(), wild, tmp_path / "cut", 2)
    assert torch.equal(_weights(whole), _weights(resumed))


def _cut_at(step: int) -> Stage:
    """Interrupts training at that step, like a kill."""

    def stage(title: str, total: int) -> Callable[[int], None]:
        def tick(done: int) -> None:
            if "aligning" in title and done == step:
                raise KeyboardInterrupt

        return tick

    return stage


@pytest.mark.slow
def test_a_run_killed_in_training_resumes_from_its_checkpoint(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    saving = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    rounds = Rounds(1, group_size=3, seed=5)
    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        align_in_rounds(tiny_policy, Depth(), wild, tmp_path / "cut", saving, rounds, _cut_at(3))
    steps: list[int] = []
    resumed = align_in_rounds(
        tiny_policy, Depth(patience=0), wild, tmp_path / "cut", saving, rounds, _record_steps(steps)
    )
    assert torch.equal(_weights(whole), _weights(resumed))
    assert steps == [3, 4]  # the first steps are neither repeated nor counted again
    (log,) = read_logs(tmp_path / "cut").values()
    assert [line["step"] for line in log if "kl" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "torn", [pytest.param("nothing of its state", marks=pytest.mark.slow), '{"epoch": 1.0, "global_st']
)
def test_an_incomplete_checkpoint_is_skipped(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path, torn: str
) -> None:
    saving = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 1}
    rounds = Rounds(1, group_size=3, seed=5)
    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        align_in_rounds(tiny_policy, Depth(), wild, tmp_path / "cut", saving, rounds, _cut_at(3))
    (trainer,) = (tmp_path / "cut" / "round-0" / "policy").glob("trainer-*")
    (trainer / "checkpoint-3").mkdir()
    if torn.startswith("{"):
        (trainer / "checkpoint-3" / "trainer_state.json").write_text(torn)
    steps: list[int] = []
    resumed = align_in_rounds(
        tiny_policy, Depth(patience=0), wild, tmp_path / "cut", saving, rounds, _record_steps(steps)
    )
    assert steps == [3, 4]
    assert torch.equal(_weights(whole), _weights(resumed))


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_takes_no_extra_step(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*words: Any) -> None:
        raise KeyboardInterrupt

    whole = _align(tiny_policy, Depth(), wild, tmp_path / "whole", 1)
    saving, rounds = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 2}, Rounds(1, group_size=3, seed=5)
    with monkeypatch.context() as patch:
        patch.setattr(rounds_module, "write_fingerprint", killed)
        with pytest.raises(KeyboardInterrupt):
            align_in_rounds(tiny_policy, Depth(), wild, tmp_path / "cut", saving, rounds, _record_steps([]))
    assert list((tmp_path / "cut").glob("round-0/policy/trainer-*/checkpoint-4"))
    steps: list[int] = []
    resumed = align_in_rounds(
        tiny_policy, Depth(patience=0), wild, tmp_path / "cut", saving, rounds, _record_steps(steps)
    )
    assert steps == [3, 4]
    assert torch.equal(_weights(whole), _weights(resumed))


@pytest.mark.slow
def test_a_kill_during_the_last_save_leaves_checkpoints_or_a_fingerprint(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old fingerprint is removed before new weights are written, the new one written before checkpoints go."""

    def killed(*words: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    _align(tiny_policy, Depth(), wild, tmp_path, 1)
    folder = tmp_path / "round-0" / "policy"
    other = {**ALIGNMENT, "loss_type": "sft", "save_strategy": "steps", "save_steps": 2}
    rounds = Rounds(1, group_size=3, seed=5)

    def killed_in_saving(*words: Any, **more: Any) -> DiffusionPolicy:
        aligned = align(*words, **more)
        aligned.save_pretrained = killed
        return aligned

    for moment, kill in (("align", killed_in_saving), ("write_fingerprint", killed)):
        with monkeypatch.context() as patch:
            patch.setattr(rounds_module, moment, kill)
            with pytest.raises(KeyboardInterrupt):
                align_in_rounds(tiny_policy, Depth(), wild, tmp_path, other, rounds, _record_steps([]))
        assert not (folder / "made_from.json").exists()
        assert list(folder.glob("trainer-*/checkpoint-4"))
    remove = shutil.rmtree

    def killed_in_clearing(path: Path, **more: Any) -> None:
        if Path(path).name.startswith("trainer-"):
            raise KeyboardInterrupt
        remove(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr("rl.rounds.shutil.rmtree", killed_in_clearing)
        with pytest.raises(KeyboardInterrupt):
            align_in_rounds(tiny_policy, Depth(), wild, tmp_path, other, rounds, _record_steps([]))
    steps: list[int] = []
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, other, rounds, _record_steps(steps))
    assert steps == []  # the finished policy is found


@pytest.mark.slow
def test_checkpoints_of_another_loss_are_not_used(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    saving = {**ALIGNMENT, "save_strategy": "steps", "save_steps": 1}
    rounds = Rounds(1, group_size=3, seed=5)
    with pytest.raises(KeyboardInterrupt):
        align_in_rounds(tiny_policy, Depth(), wild, tmp_path, saving, rounds, _cut_at(3))
    steps: list[int] = []
    other = {**saving, "loss_type": "sft"}
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, other, rounds, _record_steps(steps))
    assert len(steps) == 4


def _record_steps(steps: list[int]) -> Stage:
    def stage(title: str, total: int) -> Callable[[int], None]:
        return steps.append if "aligning" in title else lambda done: None

    return stage


@pytest.mark.slow
def test_rescore_changes_the_scores_for_training(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    seen: list[int] = []

    def shuffle(groups: Dataset, seed: int) -> Dataset:
        seen.append(seed)
        return shuffle_scores(groups, seed)

    straight = _align(tiny_policy, Depth(), wild, tmp_path / "straight", 2)
    control = _align(tiny_policy, Depth(), wild, tmp_path / "control", 2, rescore=shuffle)
    assert seen[0] == 5  # one round is the run of that seed
    assert seen[1] == Rounds(seed=5).seed_of(1) != 6
    assert not torch.equal(_weights(straight), _weights(control))


def test_all_steps_are_divided_among_the_rounds(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    steps: list[int] = []
    rounds = Rounds(3, group_size=3, seed=5)
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, ALIGNMENT, rounds, _record_steps(steps))
    assert steps == [1, 2, 1, 1]  # four steps over three rounds


@pytest.mark.slow
def test_rounds_of_one_step_change_the_policy(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    """A warm-up of one step, whose rate is 0, would leave the policy unchanged."""
    assert "warmup_steps" not in ALIGNMENT
    alignment, rounds = {**ALIGNMENT, "max_steps": 2}, Rounds(2, group_size=3, seed=5)
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, alignment, rounds, _record_steps([]))
    made = [DiffusionPolicy.from_pretrained(tmp_path / f"round-{k}" / "policy") for k in range(2)]
    for before, after in itertools.pairwise([tiny_policy, *made]):
        assert not torch.equal(_weights(before), _weights(after))


@pytest.mark.slow
def test_tensorboard_files_are_kept(tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path) -> None:
    alignment, rounds = {**ALIGNMENT, "report_to": "tensorboard"}, Rounds(2, group_size=3, seed=5)
    align_in_rounds(tiny_policy, Depth(), wild, tmp_path, alignment, rounds, _record_steps([]))
    for number in range(2):
        policy = tmp_path / f"round-{number}" / "policy"
        assert len(list(policy.glob("tensorboard/trainer-*/events.*"))) == 1
        assert not list(policy.glob("trainer-*"))


def test_rounds_of_different_seeds_have_different_seeds() -> None:
    runs = [[Rounds(4, seed=seed).seed_of(number) for number in range(4)] for seed in range(5)]
    assert len({seed for run in runs for seed in run}) == 20
    assert [run[0] for run in runs] == list(range(5))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"seed": 3}, "seed cannot be set"),
        ({"output_dir": "x"}, "output_dir cannot be set"),
        ({"use_cpu": True}, "use_cpu cannot be set"),
        ({"push_to_hub": True}, "push_to_hub cannot be set by a recipe: nothing is uploaded"),
        ({"hub_token": "hf_x"}, "hub_token cannot be set by a recipe: nothing is uploaded"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint cannot be set"),
        ({"beta": "high"}, "beta takes a number, not 'high'"),
        ({"learning_rate": -1}, "learning_rate must be at least 0"),
        ({"max_steps": 2.5}, "max_steps takes a whole number, not 2.5"),
        ({"bf16": "no"}, "bf16 takes true or false, not 'no'"),
        ({"loss_type": "ppo"}, "loss_type is one of"),
        ({"trainable": "encoder"}, "trainable must name .* that learns"),
        ({"trainable": "regressor"}, "trainable must name .* that learns"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy must be no, not steps"),
        ({"betta": 1.0}, "unknown betta"),
    ],
)
def test_invalid_settings_are_refused_before_a_critique(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path, field: dict[str, Any], message: str
) -> None:
    alignment = {**ALIGNMENT, **field}
    silent = lambda title, total: lambda done: None  # noqa: E731
    with pytest.raises(ValueError, match=message):
        align_in_rounds(tiny_policy, Depth(patience=0), wild, tmp_path, alignment, Rounds(1, 3), silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_strings_are_converted_to_numbers(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    rounds, words = Rounds(1, 3, seed=5), {**ALIGNMENT, "learning_rate": "1e-2", "max_steps": "4"}
    aligned = align_in_rounds(
        tiny_policy, Depth(), wild, tmp_path / "words", words, rounds, _record_steps([])
    )
    assert torch.equal(
        _weights(aligned), _weights(_align(tiny_policy, Depth(), wild, tmp_path / "numbers", 1))
    )


@pytest.mark.slow
def test_a_finished_policy_is_found_by_seed_and_replayed_scenes(
    tiny_policy: DiffusionPolicy, wild: list[Sample], tmp_path: Path
) -> None:
    _align(tiny_policy, Depth(), wild, tmp_path, 1)
    groups, folder = load_preferences(tmp_path / "round-0" / "groups"), tmp_path / "policy"
    scenes = BodyLabels(
        torch.tensor(groups["condition"][:]), torch.zeros(4, 157), tiny_policy.initial_estimate_digest()
    )
    scenes.save(tmp_path / "replay.safetensors")
    replayed = {**ALIGNMENT, "replay_weight": 0.5, "replay_file": str(tmp_path / "replay.safetensors")}
    align_once(tiny_policy, groups, folder, replayed, 0, lambda step: None)
    assert finished_policy(tiny_policy, groups, folder, replayed, 0) is not None
    assert finished_policy(tiny_policy, groups, folder, replayed) is not None
    assert finished_policy(tiny_policy, groups, folder, replayed, 1) is None
    dataclasses.replace(scenes, x0=torch.ones(4, 157)).save(tmp_path / "replay.safetensors")
    assert finished_policy(tiny_policy, groups, folder, replayed, 0) is None


def test_a_loaded_policy_is_on_the_device_of_the_given_one(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    tiny_policy.save_pretrained(tmp_path)
    elsewhere = tiny_policy.to("meta")
    assert rounds_module._load(elsewhere, tmp_path).device.type == "meta"


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
