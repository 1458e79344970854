"""What a recipe of pretraining may say, and what makes one run another."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from hmr.pretraining.losses import LossWeights
from hmr.pretraining.recipe import HELD_OUT, PretrainConfig, read_config, run_fingerprint, stage_arguments
from hmr.synthetic.splits import SPLITS

RECIPES = sorted(Path("configs").glob("pretrain_*.yaml"))

REFUSED = {
    "an unknown field": ("sceens: 3", "unknown sceens; allowed are backdrops, ema_decay"),
    "an unknown recipe": ("recipe: moon", "no recipe is called 'moon'; there are lab, wild"),
    "an unknown loss": ("losses: {foo: 1}", "losses: unknown foo; allowed are denoise, depths, keypoints"),
    "losses that are a number": ("losses: 3", "losses must hold a mapping of fields, not 3"),
    "an unknown field of the policy": ("policy: {depht: 4}", "policy: unknown depht; allowed are backbone, crop_scale"),
    "a policy that is a list": ("policy: [4]", "policy takes dict[str, typing.Any], not [4]"),
    "an unknown field of a stage": (
        "training: {max_step: 3}",
        "training: unknown max_step; allowed are the fields of transformers.TrainingArguments",
    ),
    "an unknown field of the other stage": ("refining: {warmup: 3}", "refining: unknown warmup"),
    "a field that the program sets": ("training: {seed: 3}", "except label_names, output_dir"),
    "a number that YAML reads as text": (
        "training: {learning_rate: 5e-4}",
        "training: learning_rate takes float, not '5e-4'; YAML reads 5e-4 as text",
    ),
    "a word for a number": ("scenes: many", "scenes takes int, not 'many'"),
    "a boolean for a number": ("policy: {depth: true}", "depth takes int, not True"),
    "a layer in place of layers": ("frozen_layers: stem", "frozen_layers takes"),
    "no scenes": ("scenes: 0", "scenes must be at least 1, not 0"),
    "interpolation without a start": ("wise_ft_alpha: 0.4", "wise_ft_alpha must be in [0, 1], and 0 without"),
    "an average that never changes": ("ema_decay: 1.0", "ema_decay in [0, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_an_error_in_a_recipe_is_reported_in_one_line(fault: str, tmp_path: Path):
    text, message = REFUSED[fault]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_overrides_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 6\nfrozen_layers: [stem]\nlosses: {mask: 2}\npolicy:\ntraining:\n")
    expected = PretrainConfig(
        seed=6, frozen_layers=("stem",), losses=LossWeights(mask=2.0), start_from="there"
    )
    assert read_config(file, start_from="there") == expected


def test_former_names_are_read_and_recorded(tmp_path: Path, tiny_policy):
    """Recipes under the former names are read, and the fingerprint of a run has the names that old folders have."""
    file = tmp_path / "a.yaml"
    file.write_text("resting: [stem]\nkept_of_start: 0.4\ntimes_while_seeing: 3\n")
    with pytest.warns(DeprecationWarning, match="is now called"):
        config = read_config(file, start_from="there")
    assert (config.frozen_layers, config.wise_ft_alpha, config.first_stage_times_per_image) == (
        ("stem",),
        0.4,
        3,
    )
    recorded = run_fingerprint(config, tiny_policy, 1)
    assert (recorded["resting"], recorded["kept_of_start"], recorded["times_while_seeing"]) == (
        ("stem",),
        0.4,
        3,
    )
    assert not {"frozen_layers", "wise_ft_alpha", "first_stage_times_per_image"} & set(recorded)


@pytest.mark.parametrize("name", SPLITS)
def test_scenes_of_the_other_splits_are_never_trained_on(name: str):
    split = SPLITS[name]
    fields = {"recipe": split.recipe.name, "seed": split.seed}
    if name == "lab-train":
        assert PretrainConfig(**fields).seed == split.seed
        return
    with pytest.raises(ValueError, match=f"draws the scenes of {name}"):
        PretrainConfig(**fields)
    assert PretrainConfig(**fields | {"seed": split.seed + 100}).recipe == split.recipe.name


def test_held_out_scenes_are_never_those_of_a_split():
    """A seed whose held-out seed is a split's would be negative."""
    assert max(split.seed for split in SPLITS.values()) < HELD_OUT
    with pytest.raises(ValueError, match="seed must be at least 0"):
        PretrainConfig(seed=SPLITS["lab-test"].seed - HELD_OUT)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_readable(recipe: Path, tmp_path: Path):
    config = read_config(recipe)
    assert config.losses == LossWeights(**dataclasses.asdict(config.losses))
    assert config.policy["crop_size"] % 16 == 0
    for stage in (config.training, config.refining):
        assert stage["report_to"] == "tensorboard"
        assert stage_arguments(config, stage | {"use_cpu": True}, tmp_path).max_steps == stage["max_steps"]


def test_there_are_recipes():
    assert len(RECIPES) == 3


def test_curves_go_to_tensorboard_by_default(tmp_path: Path):
    assert stage_arguments(PretrainConfig(), {"use_cpu": True}, tmp_path).report_to == ["tensorboard"]


def test_the_recipe_for_an_accelerator_has_the_shipped_shape():
    tiny, gpu = (read_config(Path("configs") / f"pretrain_{name}.yaml") for name in ("tiny", "tiny_gpu"))
    assert (gpu.policy, gpu.losses) == (tiny.policy, tiny.losses)
    assert gpu.seed != tiny.seed


def test_logging_and_data_loading_are_not_in_the_fingerprint(tiny_policy, tmp_path: Path):
    stage = {"max_steps": 4, "use_cpu": True, "report_to": "none", "logging_steps": 2}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"training": stage}))
    config = read_config(tmp_path / "a.yaml")
    fingerprint = run_fingerprint(config, tiny_policy, 1)
    free = stage | {
        "report_to": "tensorboard",
        "logging_steps": 1,
        "save_steps": 9,
        "dataloader_num_workers": 3,
    }
    assert run_fingerprint(dataclasses.replace(config, training=free), tiny_policy, 1) == fingerprint
    others = [
        dataclasses.replace(config, **change)
        for change in (
            {"seed": 6},
            {"scenes": 7},
            {"losses": LossWeights(mask=2.0)},
            {"training": stage | {"max_steps": 5}},
            {"training": stage | {"eval_strategy": "epoch"}},
            {"start_from": "a policy"},
        )
    ]
    assert all(run_fingerprint(other, tiny_policy, 1) != fingerprint for other in others)
    assert run_fingerprint(config, tiny_policy, 2) != fingerprint


def test_a_start_policy_is_identified_by_its_weights(tiny_policy):
    here, there = (PretrainConfig(start_from=folder) for folder in ("here", "there"))
    fingerprint = run_fingerprint(here, tiny_policy, 1)
    assert run_fingerprint(there, tiny_policy, 1) == fingerprint
    tiny_policy.denoiser.reset_head()
    assert run_fingerprint(here, tiny_policy, 1) != fingerprint
