"""Real processes over gloo: one of them draws and writes, all of them end with the same policy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from hmr.policy.checkpoint import load_policy
from hmr.pretraining.crop_cache import make_crops
from hmr.pretraining.recipe import read_config
from tests.command import call
from tests.processes import launch_module

STAGE = {
    "max_steps": 2, "per_device_train_batch_size": 4, "save_steps": 1, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip
RECIPE = {
    "scenes": 12, "held_out": 4, "times_per_image": 2, "training": STAGE, "refining": STAGE,
    "policy": {"crop_size": 64, "encoder_widths": [8, 12, 16], "width": 32, "depth": 1},
}  # fmt: skip


def launch(folder: Path, out: str) -> list[dict]:
    """Run two processes; returns the record of each."""
    notes = folder / f"notes-{out}"
    notes.mkdir()
    recipe = ["--config", folder / "a.yaml", "--cache", folder / "cache", "--workers", 1]
    output = launch_module(
        "tests.hmr.pretraining.launched_pretraining", [notes, "--out", folder / out, *recipe]
    )
    assert output.count("learning curves:") == 1
    return [json.loads((notes / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_the_first_process_draws_and_writes_for_all(tmp_path: Path, monkeypatch, capsys):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    first, second = launch(tmp_path, "whole")
    assert first["does"] == ["draws", "draws", *4 * ["averages"], "saves"]
    assert second["does"] == []
    assert first["weights"] == second["weights"]
    assert len(first["weights"]) == 2
    assert all(one != other for one, other in zip(first["noise"], second["noise"], strict=True))

    config = read_config(file)
    policy = load_policy(tmp_path / "whole")
    alone = make_crops(config.crops(policy.config), tmp_path / "alone")
    shared = make_crops(config.crops(policy.config), tmp_path / "cache")
    assert np.array_equal(np.load(alone / "crops.npy"), np.load(shared / "crops.npy"))

    for part in ("see/checkpoint-2", "pose/checkpoint-1"):  # as a kill in the second stage would leave them
        shutil.copytree(tmp_path / "whole" / part, tmp_path / "parts" / part)
    shutil.copy(tmp_path / "whole" / "made_from.json", tmp_path / "parts")
    resumed, _ = launch(tmp_path, "parts")
    assert resumed["does"] == ["averages", "saves"]
    assert load_policy(tmp_path / "parts").digest() == policy.digest()

    words = ("--config", file, "--out", tmp_path / "parts", "--cache", tmp_path / "cache")
    code, _, err = call(monkeypatch, capsys, "pretrain", *words)
    assert code == 2
    assert "holds another run (processes 2, not 1)" in err
