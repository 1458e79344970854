"""Monitoring during training: spread, rewards by name, and the table of hypotheses."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from hmr.render.overlay import panel
from hmr.types import Box, Camera, Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.monitoring.hypotheses_table import HypothesesTable
from rl.trainer import GroupPreferenceTrainer
from rl.types import PreferenceGroup

IMAGES, GROUP = 3, 4


@pytest.fixture
def samples():
    pixels = np.random.default_rng(0).integers(0, 255, (IMAGES, 96, 96, 3), dtype=np.uint8)
    box, camera = Box(8.0, 8.0, 80.0, 88.0), Camera.estimate(96, 96)
    return {f"s{row}": Sample(f"s{row}", image, box, camera) for row, image in enumerate(pixels)}


@pytest.fixture
def rows(tiny_policy, samples):
    groups = []
    for name, sample in samples.items():
        features = tiny_policy.encode([sample])
        drawn = tiny_policy.sample(features, GROUP, torch.Generator().manual_seed(1))[0]
        scores = (10.0, 30.0, None, 20.0)
        group = PreferenceGroup(
            name, "0", Hypotheses(drawn.params, sample.camera), features.condition[0], features.geometry[0],
            scores, "fake", False, tiny_policy.digest(),
        )  # fmt: skip
        groups.append(group.to_row() | {"rewards/height": [1.0, 2.0, 3.0, None], "rewards/age": list(scores)})
    return Dataset.from_list(groups)


def trained(policy, rows, folder: Path, callback=None, **changes) -> GroupPreferenceTrainer:
    args = GroupPreferenceConfig(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=3,
        logging_steps=2,
        save_strategy="no",
        learning_rate=1e-2,
        warmup_steps=0,
        use_cpu=True,
        **{"spread_steps": 4, "spread_images": 2, **changes},
    )
    trainer = GroupPreferenceTrainer(policy, args, rows)
    if callback is not None:
        trainer.add_callback(callback(trainer))
    trainer.train()
    return trainer


def test_spread_and_rewards_by_name_are_logged(tiny_policy, rows, tmp_path):
    first, second = trained(tiny_policy, rows, tmp_path).state.log_history[:2]
    spreads = {"spread_visible_mm", "spread_occluded_mm"}
    assert spreads & set(first)  # of the base; an untrained encoder may find all joints visible, or none
    for name in spreads & set(first):
        assert second[name] != first[name]  # after the last step
    # (1, 2, 3): mean 2, std sqrt(2/3); (10, 30, 20): mean 20, std sqrt(200/3)
    assert (first["rewards/height/mean"], first["rewards/age/mean"]) == pytest.approx((2.0, 20.0))
    assert (first["rewards/height/std"], first["rewards/age/std"]) == pytest.approx((0.816497, 8.164966))
    assert first["reward"] == pytest.approx(20.0)


def test_the_spread_callback_can_be_switched_off(tiny_policy, rows, tmp_path):
    (first, *_) = trained(tiny_policy, rows, tmp_path, spread_steps=0).state.log_history
    assert not any(name.startswith("spread") for name in first)


def test_the_table_shows_best_worst_and_current(tiny_policy, body, rows, samples, tmp_path):
    del samples["s1"]
    trained(
        tiny_policy,
        rows,
        tmp_path,
        lambda trainer: HypothesesTable(trainer, body, samples, rows, tmp_path / "table", every=3, rows=5),
    )
    files = sorted((tmp_path / "table").iterdir())
    assert [file.name for file in files] == [f"hypotheses-{step:06d}.png" for step in (0, 3, 4)]
    before, after = (np.asarray(Image.open(file)) for file in (files[0], files[-1]))
    # two images of three panels; best and worst stay, the current sample changes
    assert before.shape == after.shape
    width = before.shape[1] // 3
    assert np.array_equal(before[:, : 2 * width], after[:, : 2 * width])
    assert not np.array_equal(before[:, 2 * width :], after[:, 2 * width :])


def test_captions_show_the_advantages_of_the_training(
    tiny_policy, body, rows, samples, tmp_path, monkeypatch
):
    """Not standardised: -10 and 10 around the mean of 20, clamped to 6."""
    captions = []

    def caption(kind, overlaid, side, label, text, color):
        captions.append(text)
        return panel(kind, overlaid, side, label, text, color)

    monkeypatch.setattr("rl.monitoring.hypotheses_table.panel", caption)
    make = lambda trainer: HypothesesTable(trainer, body, samples, rows, tmp_path / "t", rows=1)  # noqa: E731
    trained(tiny_policy, rows, tmp_path, make, advantage_type="none", advantage_clip=6.0)
    assert captions[:3] == ["30.0 / +6.0", "10.0 / -6.0", "now"]


def test_a_table_without_samples_is_refused(tiny_policy, body, rows, tmp_path):
    with pytest.raises(ValueError, match="no group of the preference set"):
        trained(
            tiny_policy, rows, tmp_path, lambda trainer: HypothesesTable(trainer, body, {}, rows, tmp_path)
        )


def test_a_table_with_another_body_is_refused(tiny_policy, body, rows, samples, tmp_path):
    other = copy.deepcopy(body)
    other.joint_template.mul_(2)
    with pytest.raises(ValueError, match="trained with another body"):
        trained(
            tiny_policy,
            rows,
            tmp_path,
            lambda trainer: HypothesesTable(trainer, other, samples, rows, tmp_path),
        )
