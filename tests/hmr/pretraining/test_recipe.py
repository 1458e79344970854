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
    "one of the other": ("refining: {warmup: 3}", "refining: unknown warmup"),
    "a field that is not the recipe's": ("training: {seed: 3}", "but for label_names, output_dir"),
    "a number in YAML's other hand": (
        "training: {learning_rate: 5e-4}",
        "training: learning_rate takes float, not '5e-4'; YAML reads 5e-4 as text",
    ),
    "a word for a number": ("scenes: many", "scenes takes int, not 'many'"),
    "a truth for a number": ("policy: {depth: true}", "depth takes int, not True"),
    "a part in place of parts": ("resting: stem", "resting takes"),
    "no scenes": ("scenes: 0", "scenes must be at least 1, not 0"),
    "a way back to nowhere": ("kept_of_start: 0.4", "kept_of_start must be in [0, 1], and 0 where no checkpoint"),
    "an average that never moves": ("ema_decay: 1.0", "ema_decay in [0, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_what_a_recipe_gets_wrong_is_named_in_one_line(fault: str, tmp_path: Path):
    text, told = REFUSED[fault]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_says_what_differs_from_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 6\nresting: [stem]\nlosses: {mask: 2}\npolicy:\ntraining:\n")
    expected = PretrainConfig(seed=6, resting=("stem",), losses=LossWeights(mask=2.0), start_from="there")
    assert read_config(file, start_from="there") == expected


@pytest.mark.parametrize("name", SPLITS)
def test_scenes_of_the_other_splits_are_never_trained_on(name: str):
    split = SPLITS[name]
    told = {"recipe": split.recipe.name, "seed": split.seed}
    if name == "lab-train":
        assert PretrainConfig(**told).seed == split.seed
        return
    with pytest.raises(ValueError, match=f"draws the scenes of {name}"):
        PretrainConfig(**told)
    assert PretrainConfig(**told | {"seed": split.seed + 100}).recipe == split.recipe.name


def test_nor_held_out():
    """A seed whose held-out one is a split's would be below zero."""
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


def test_curves_go_to_tensorboard_where_a_recipe_says_nothing(tmp_path: Path):
    assert stage_arguments(PretrainConfig(), {"use_cpu": True}, tmp_path).report_to == ["tensorboard"]


def test_the_recipe_for_an_accelerator_has_the_shipped_shape():
    tiny, gpu = (read_config(Path("configs") / f"pretrain_{name}.yaml") for name in ("tiny", "tiny_gpu"))
    assert (gpu.policy, gpu.losses) == (tiny.policy, tiny.losses)
    assert gpu.seed != tiny.seed


def test_a_recipe_is_a_run_but_for_how_it_is_fed_and_told_of(tiny_policy, tmp_path: Path):
    stage = {"max_steps": 4, "use_cpu": True, "report_to": "none", "logging_steps": 2}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"training": stage}))
    config = read_config(tmp_path / "a.yaml")
    origin = run_fingerprint(config, tiny_policy, 1)
    free = stage | {
        "report_to": "tensorboard",
        "logging_steps": 1,
        "save_steps": 9,
        "dataloader_num_workers": 3,
    }
    assert run_fingerprint(dataclasses.replace(config, training=free), tiny_policy, 1) == origin
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
    assert all(run_fingerprint(other, tiny_policy, 1) != origin for other in others)
    assert run_fingerprint(config, tiny_policy, 2) != origin


def test_a_policy_to_go_on_from_counts_by_its_weights(tiny_policy):
    here, there = (PretrainConfig(start_from=folder) for folder in ("here", "there"))
    origin = run_fingerprint(here, tiny_policy, 1)
    assert run_fingerprint(there, tiny_policy, 1) == origin
    tiny_policy.denoiser.reset_head()
    assert run_fingerprint(here, tiny_policy, 1) != origin
