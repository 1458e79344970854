from pathlib import Path

import pytest
import yaml

from rl.config import GroupPreferenceConfig

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("align_*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_config(recipe, tmp_path):
    fields = yaml.safe_load(recipe.read_text())
    config = GroupPreferenceConfig(output_dir=str(tmp_path), use_cpu=True, **fields)
    assert all(getattr(config, name) == value for name, value in fields.items())
    assert recipe.stem == f"align_{config.loss_type}"


def test_there_are_recipes():
    assert RECIPES
