"""What a recipe of the encoder's training may hold, and what makes one run another."""

import dataclasses
from pathlib import Path

import pytest

from hmr.pretraining.encoder_recipe import (
    HELD_OUT,
    EncoderLossWeights,
    EncoderRecipe,
    read_encoder_recipe,
    run_fingerprint,
)
from hmr.pretraining.stages import stage_arguments
from hmr.synthetic.splits import SPLITS
from tests.agent.tools.tool_case import write_larger_body

REFUSED = {
    "an unknown field": ("sceens: 3", "unknown sceens; allowed are backdrops, body, ema_decay"),
    "an unknown recipe": ("recipe: moon", "no recipe is called 'moon'; there are lab, wild"),
    "an unknown loss": ("losses: {foo: 1}", "losses: unknown foo; allowed are depths, keypoints"),
    "losses that are a number": ("losses: 3", "losses takes dict[str, typing.Any], not 3"),
    "an unknown field of the encoder": ("encoder: {depht: 4}", "encoder: unknown depht; allowed are backbone"),
    "an encoder that is a list": ("encoder: [4]", "encoder takes dict[str, typing.Any], not [4]"),
    "an unknown argument": (
        "training: {max_step: 3}",
        "training: unknown max_step; allowed are the fields of transformers.TrainingArguments",
    ),
    "a field that the program sets": ("training: {seed: 3}", ", label_names, "),
    "a number that YAML reads as text": (
        "training: {learning_rate: 5e-4}",
        "training: learning_rate takes float, not '5e-4'; YAML reads 5e-4 as text",
    ),
    "a word for a number": ("scenes: many", "scenes takes int, not 'many'"),
    "a layer in place of layers": ("frozen_layers: stem", "frozen_layers takes"),
    "no scenes": ("scenes: 0", "scenes must be at least 1, not 0"),
    "interpolation without a start": ("wise_ft_alpha: 0.4", "wise_ft_alpha must be in [0, 1], and 0 without"),
    "an average that never changes": ("ema_decay: 1.0", "ema_decay must be in [0, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_an_error_in_a_recipe_is_reported_in_one_line(fault: str, tmp_path: Path):
    text, message = REFUSED[fault]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_encoder_recipe(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_overrides_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 6\nfrozen_layers: [stem]\nlosses: {mask: 2}\nencoder:\ntraining:\n")
    expected = EncoderRecipe(
        seed=6, frozen_layers=("stem",), losses=EncoderLossWeights(mask=2.0), start_from="there"
    )
    assert read_encoder_recipe(file, start_from="there") == expected


@pytest.mark.parametrize("name", SPLITS)
def test_scenes_of_the_other_splits_are_never_trained_on(name: str):
    split = SPLITS[name]
    fields = {"recipe": split.recipe.name, "seed": split.seed}
    if name in ("lab-train", "studio-train"):
        assert EncoderRecipe(**fields).seed == split.seed
        return
    with pytest.raises(ValueError, match=f"draws the scenes of {name}"):
        EncoderRecipe(**fields)
    assert EncoderRecipe(**fields | {"seed": split.seed + 100}).recipe == split.recipe.name


def test_held_out_scenes_are_never_those_of_a_split():
    """A seed whose held-out seed is a split's would be negative."""
    assert max(split.seed for split in SPLITS.values()) < HELD_OUT
    with pytest.raises(ValueError, match="seed must be at least 0"):
        EncoderRecipe(seed=SPLITS["lab-test"].seed - HELD_OUT)


def test_the_shipped_recipe_is_readable(tmp_path: Path):
    recipe = read_encoder_recipe(Path("configs/train_encoder.yaml"))
    assert recipe.encoder["crop_size"] % 16 == 0
    arguments = stage_arguments(recipe.training | {"use_cpu": True}, tmp_path, recipe.seed, "keypoints")
    assert arguments.max_steps == recipe.training["max_steps"]


def test_logging_and_data_loading_are_not_in_the_fingerprint(tiny_encoder, tmp_path):
    stage = {"max_steps": 4, "use_cpu": True, "report_to": "none", "logging_steps": 2}
    recipe = EncoderRecipe(training=stage)
    fingerprint = run_fingerprint(recipe, tiny_encoder, 1)
    free = stage | {
        "report_to": "tensorboard",
        "logging_steps": 1,
        "save_steps": 9,
        "dataloader_num_workers": 3,
    }
    assert run_fingerprint(dataclasses.replace(recipe, training=free), tiny_encoder, 1) == fingerprint
    others = [
        dataclasses.replace(recipe, **change)
        for change in (
            {"seed": 6},
            {"scenes": 7},
            {"losses": EncoderLossWeights(mask=2.0)},
            {"training": stage | {"max_steps": 5}},
            {"start_from": "an encoder"},
            {"body": str(write_larger_body(tmp_path))},
        )
    ]
    assert all(run_fingerprint(other, tiny_encoder, 1) != fingerprint for other in others)
    assert run_fingerprint(recipe, tiny_encoder, 2) != fingerprint
