"""What a recipe of the policy's pretraining may hold, and what makes one run another."""

import dataclasses
import json
from pathlib import Path

import pytest

from common.storage.fingerprint import file_digest, has_fingerprint, write_fingerprint
from hmr.policy.checkpoint import BASES, load_policy
from hmr.pretraining.losses import LossWeights
from hmr.pretraining.policy_recipe import PolicyRecipe, read_policy_recipe, run_fingerprint
from hmr.pretraining.simulation import PeopleRecipe
from hmr.pretraining.stages import stage_arguments

RECIPES = sorted(Path("configs").glob("pretrain_*.yaml"))
REFUSED = {
    "an unknown field": ("poool: 3", "unknown poool; allowed are body, denoiser, detectors"),
    "an unknown loss": ("losses: {foo: 1}", "losses: unknown foo; allowed are denoise, regression"),
    "an unknown probability": ("people: {hats: 1.0}", "people: unknown hats; allowed are any_tilt"),
    "an unknown field of the policy": ("policy: {depht: 4}", "policy: unknown depht; allowed are alignment"),
    "an unknown argument": ("denoiser: {warmup: 3}", "denoiser: unknown warmup"),
    "a field that the program sets": ("estimate: {seed: 3}", ", label_names, "),
    "a boolean for a number": ("policy: {depth: true}", "depth takes int, not True"),
    "no poses": ("pool: 0", "pool must be at least 1, not 0"),
    "an unknown detector": ("detectors: [yolo]", "no simulated detector is called 'yolo'; there are embedded"),
    "an average that never changes": ("ema_decay: 1.0", "ema_decay in [0, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_an_error_in_a_recipe_is_reported_in_one_line(fault: str, tmp_path: Path):
    text, message = REFUSED[fault]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_policy_recipe(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_overrides_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "seed: 6\ndetectors: [coco]\nlosses: {denoise: 2}\npeople: {focal_mm: [24.0, 50.0]}\npolicy:\nestimate:\n"
    )
    assert read_policy_recipe(file, start_from="there") == PolicyRecipe(
        seed=6,
        detectors=("coco",),
        losses=LossWeights(denoise=2.0),
        people=PeopleRecipe(focal_mm=(24.0, 50.0)),
        start_from="there",
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_readable(recipe: Path, tmp_path: Path):
    config = read_policy_recipe(recipe)
    for name in ("estimate", "denoiser"):
        fields = getattr(config, name)
        arguments = stage_arguments(fields | {"use_cpu": True}, tmp_path, config.seed, "vector")
        assert arguments.max_steps == fields["max_steps"]


def test_the_studio_policy_was_trained_by_its_recipe():
    recorded = json.loads((BASES["studio"] / "training.json").read_text())["recipe"]
    recipe = dataclasses.asdict(read_policy_recipe("configs/pretrain_studio_policy.yaml"))
    assert {"body": None, **recorded} == json.loads(json.dumps(recipe))  # it is older than the field
    assert load_policy(BASES["studio"]).detector.name == "simulated"


def test_there_is_a_recipe():
    assert RECIPES


def test_the_body_counts_by_its_content_and_the_embedded_one_as_before(tiny_policy, tmp_path):
    """A record that is older than the field is one of the embedded body."""
    write_fingerprint(tmp_path, {"seed": 1})
    file = tmp_path / "body.npz"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        fingerprint = run_fingerprint(PolicyRecipe(body=str(file)), tiny_policy, 1)
        assert fingerprint["body"] == file_digest(file)
        assert not has_fingerprint(tmp_path, {"seed": 1, "body": fingerprint["body"]})
    assert has_fingerprint(
        tmp_path, {"seed": 1, "body": run_fingerprint(PolicyRecipe(), tiny_policy, 1)["body"]}
    )


def test_logging_and_data_loading_are_not_in_the_fingerprint(tiny_policy):
    stage = {"max_steps": 4, "use_cpu": True, "report_to": "none", "logging_steps": 2}
    recipe = PolicyRecipe(estimate=stage)
    fingerprint = run_fingerprint(recipe, tiny_policy, 1)
    free = stage | {
        "report_to": "tensorboard",
        "logging_steps": 1,
        "save_steps": 9,
        "dataloader_num_workers": 3,
    }
    assert run_fingerprint(dataclasses.replace(recipe, estimate=free), tiny_policy, 1) == fingerprint
    others = [
        dataclasses.replace(recipe, **change)
        for change in (
            {"seed": 6},
            {"pool": 7},
            {"detectors": ("coco",)},
            {"people": PeopleRecipe(occluders=0.0)},
            {"losses": LossWeights(denoise=2.0)},
            {"estimate": stage | {"max_steps": 5}},
            {"start_from": "a policy"},
        )
    ]
    assert all(run_fingerprint(other, tiny_policy, 1) != fingerprint for other in others)
    assert run_fingerprint(recipe, tiny_policy, 2) != fingerprint
