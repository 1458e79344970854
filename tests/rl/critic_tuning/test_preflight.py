"""Settings that TRL or peft rejects only when it trains are found before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rl.critic_tuning.config import TuningSettings, read_tuning
from rl.critic_tuning.preflight import run_preflight

ROOT = Path(__file__).parents[3]
SMALL = {"per_device_train_batch_size": 2, "num_generations": 2}

REFUSED = {
    "a loss of grpo": ("grpo", {"grpo": {**SMALL, "loss_type": "bogus"}}, "grpo or lora: Unknown loss type"),
    "a rank of zero": ("sft", {"lora": {"r": 0}}, "sft or lora: `r` should be a positive"),
    "a loss of sft": ("sft", {"sft": {"loss_type": "bogus"}}, "Invalid `loss_type` bogus"),
    "a dropout above one": ("sft", {"lora": {"lora_dropout": 2.0}}, "dropout probability"),
    "no reply": ("grpo", {"grpo": {**SMALL, "max_completion_length": 0}}, "grpo or lora: "),
    "no temperature": ("grpo", {"grpo": {**SMALL, "temperature": 0.0}}, "grpo or lora: "),
}
FAST = ("a rank of zero", "a loss of grpo")


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in REFUSED],
)
def test_refused(case):
    stage, settings, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        run_preflight(TuningSettings(stages=(stage,), **settings))


def test_valid_settings_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state()
    run_preflight(TuningSettings(grpo=SMALL))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_shipped_recipe_is_accepted():
    run_preflight(read_tuning(ROOT / "configs" / "tune_critic.yaml"))
