"""Settings are read from YAML and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rl.policy_gradient.config import PolicyGradientConfig, read_policy_gradient

RECIPE = Path(__file__).parents[3] / "configs" / "align_policy_gradient.yaml"


def test_the_recipe_sets_every_field():
    fields = yaml.safe_load(RECIPE.read_text())
    assert read_policy_gradient(RECIPE) == PolicyGradientConfig(**fields)
    assert list(fields) == list(PolicyGradientConfig.__dataclass_fields__)


def test_fields_that_are_left_out_have_their_defaults(tmp_path):
    (tmp_path / "few.yaml").write_text("updates: 2\neta: 1\n")
    assert read_policy_gradient(tmp_path / "few.yaml") == PolicyGradientConfig(updates=2, eta=1.0)
    assert PolicyGradientConfig(updates=2, images_per_update=5).critiques == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("updates: 0", "updates must be at least 1, not 0"),
        ("group_size: 1", "group_size must be at least 2, not 1"),
        ("steps: 1", "steps must be at least 2, not 1"),
        ("kl_weight: -1", "kl_weight must be at least 0, not -1"),
        ("learning_rate: 0", "learning_rate must be above 0, not 0"),
        ("clip_epsilon: .nan", "clip_epsilon must be above 0, not nan"),
        ("eta: 0", "eta must be above 0 and at most 1, not 0"),
        ("eta: 1.5", "eta must be above 0 and at most 1, not 1.5"),
        ("ema_decay: 1", r"ema_decay must be in \[0, 1\), not 1"),
        ("minibatches: 433", r"minibatches must be at most .* = 432, not 433"),
        ("advantage_type: mean", "advantage_type is one of group, batch, none, not 'mean'"),
        ("learning_rate: 1e-4", "learning_rate takes float, not '1e-4'; .*write 5.0e-4"),
        ("updates: 2.5", "updates takes int, not 2.5"),
        ("train_estimate: 1", "train_estimate takes bool, not 1"),
        ("beta: 1", "unknown beta; allowed are .*clip_epsilon"),
        ("[1, 2]", "must hold a mapping of fields"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"wrong\.yaml.*{message}"):
        read_policy_gradient(tmp_path / "wrong.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_policy_gradient(tmp_path / "none.yaml")
