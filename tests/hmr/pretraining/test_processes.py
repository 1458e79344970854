"""Real processes over gloo: one of them draws scenes and writes, all of them end with the same weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hmr.detection.person_encoder import load_encoder
from hmr.policy.checkpoint import load_policy
from hmr.pretraining.crop_cache import make_crops
from hmr.pretraining.encoder_recipe import read_encoder_recipe
from tests.command import call
from tests.processes import launch_module

STAGE = {
    "max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip
ENCODER_RECIPE = {
    "scenes": 12, "held_out": 4, "training": STAGE, "encoder": {"crop_size": 64, "encoder_widths": [8, 12, 16]},
}  # fmt: skip
POLICY_RECIPE = {
    "pool": 200, "held_out": 64, "times_per_person": 2, "estimate": STAGE, "denoiser": dict(STAGE),
    "policy": {"width": 32, "depth": 1, "head_width": 32, "head_depth": 1},
}  # fmt: skip


def launch(folder: Path, out: str, *options: object) -> list[dict[str, Any]]:
    """Run two processes; returns the record of each."""
    notes = folder / f"notes-{out}"
    notes.mkdir()
    words = [notes, "--out", folder / out, "--config", folder / "recipe.yaml", *options]
    output = launch_module("tests.hmr.pretraining.launched_pretraining", words)
    assert output.count("learning curves:") == 1
    return [json.loads((notes / f"{rank}.json").read_text()) for rank in (0, 1)]


def check_whole(first: dict[str, Any], second: dict[str, Any], does: list[str], stages: int) -> None:
    assert first["does"] == does
    assert second["does"] == []
    assert first["weights"] == second["weights"]
    assert len(first["weights"]) == stages
    assert all(one != other for one, other in zip(first["noise"], second["noise"], strict=True))


def check_other_number_is_refused(monkeypatch, capsys, *words: object) -> None:
    code, _, err = call(monkeypatch, capsys, "pretrain", *words)
    assert code == 2
    assert "holds another run (processes 2, not 1)" in err


@pytest.mark.slow
def test_the_first_process_draws_the_encoder_s_scenes_and_writes_for_all(tmp_path, monkeypatch, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(ENCODER_RECIPE))
    options = ("--encoder", "--cache", tmp_path / "cache", "--workers", 1)
    check_whole(
        *launch(tmp_path, "whole", *options), ["draws", "draws", "averages", "averages", "saves"], stages=1
    )

    recipe, encoder = read_encoder_recipe(file), load_encoder(tmp_path / "whole")
    alone = make_crops(recipe.crops(encoder.config), tmp_path / "alone")
    shared = make_crops(recipe.crops(encoder.config), tmp_path / "cache")
    assert np.array_equal(np.load(alone / "crops.npy"), np.load(shared / "crops.npy"))

    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "parts" / "checkpoint-1")
    shutil.copy(tmp_path / "whole" / "made_from.json", tmp_path / "parts")
    resumed, _ = launch(tmp_path, "parts", *options)
    assert resumed["does"] == ["averages", "saves"]
    assert load_encoder(tmp_path / "parts").digest() == encoder.digest()
    check_other_number_is_refused(
        monkeypatch, capsys, "--config", file, "--out", tmp_path / "parts", *options[:3]
    )


@pytest.mark.slow
def test_the_processes_of_a_policy_s_training_end_with_the_same_weights(tmp_path, monkeypatch, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(POLICY_RECIPE))
    check_whole(*launch(tmp_path, "whole"), [*4 * ["averages"], "saves"], stages=2)

    for part in ("estimate/checkpoint-2", "denoiser/checkpoint-1"):  # left by a kill in the second stage
        shutil.copytree(tmp_path / "whole" / part, tmp_path / "parts" / part)
    shutil.copy(tmp_path / "whole" / "made_from.json", tmp_path / "parts")
    resumed, _ = launch(tmp_path, "parts")
    assert resumed["does"] == ["averages", "saves"]
    assert load_policy(tmp_path / "parts").digest() == load_policy(tmp_path / "whole").digest()
    check_other_number_is_refused(monkeypatch, capsys, "--config", file, "--out", tmp_path / "parts")
