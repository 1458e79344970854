"""`meshcritic pretrain`: an invalid recipe is rejected before any scene is rendered; a minimal run."""

import json
from pathlib import Path

import pytest
import yaml

from tests.command import call

STAGE = "max_steps: 1, per_device_train_batch_size: 2, use_cpu: true, disable_tqdm: true"
TINY = "policy: {crop_size: 64, encoder_widths: [8, 12, 16], width: 32, depth: 1}"

INVALID_RECIPES = {
    "an unknown recipe": ("recipe: moon", "no recipe is called 'moon'; there are lab, wild"),
    "an unknown loss": ("losses: {foo: 1}", "losses: unknown foo; allowed are denoise, depths, keypoints"),
    "losses that are a number": ("losses: 3", "losses must hold a mapping of fields, not 3"),
    "a mistyped setting of the policy": ("policy: {depht: 4}", "policy: unknown depht; allowed are backbone"),
    "a mistyped field of the first stage": ("training: {max_step: 3}", "training: unknown max_step"),
    "a mistyped field of the second": ("refining: {max_step: 3}", "refining: unknown max_step"),
    "an unknown schedule": (f"{TINY}\ntraining: {{{STAGE}, lr_scheduler_type: sine}}", "sine"),
    "an unknown frozen layer": (
        f"{TINY}\nfrozen_layers: [toes]\ntraining: {{{STAGE}}}",
        "no layer 'toes' to freeze",
    ),
    "an unknown encoder": ("policy: {encoder: resnet}", "no encoder is called 'resnet'"),
    "the seed of a split": ("seed: 3", "seed 3 of lab draws the scenes of lab-test"),
    "a missing motion folder": (f"motion: nowhere\n{TINY}", "nowhere: there is no such folder"),
    "a missing backdrops folder": (f"backdrops: nowhere\n{TINY}", "nowhere: there is no such folder"),
    "a missing initial policy": ("start_from: nowhere", "nowhere holds no policy"),
    "a recipe that is a list": ("- 3", "must hold a mapping of fields"),
}


@pytest.mark.parametrize("fault", sorted(INVALID_RECIPES))
def test_an_invalid_recipe_ends_in_one_sentence(fault: str, tmp_path: Path, monkeypatch, capsys):
    text, message = INVALID_RECIPES[fault]
    (tmp_path / "a.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, "pretrain", "--config", "a.yaml", "--out", "o", "--cache", "c")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml"]


def test_a_run_writes_curves_and_rejects_another_run_in_its_folder(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "a.yaml").write_text(f"scenes: 2\nheld_out: 1\n{TINY}\nrefining: {{{STAGE}}}\n")
    words = ("pretrain", "--config", "a.yaml", "--out", "o", "--cache", "c", "--workers", 1)
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert "policy: o; learning curves: o/curves.svg" in err
    assert (tmp_path / "o" / "curves.svg").stat().st_size > 100
    assert list((tmp_path / "o" / "pose").rglob("events.out.tfevents*"))
    weights = (tmp_path / "o" / "model.safetensors").read_bytes()

    code, _, _ = call(monkeypatch, capsys, *words)
    assert code == 0
    recipe = yaml.safe_load((tmp_path / "a.yaml").read_text()) | {"seed": 6, "losses": {"mask": 2}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert err.startswith("meshcritic: o holds another run (seed 1, not 6; ")
    assert "losses.mask 0.3, not 2.0" in err
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "o" / "training.json").read_text())["config"]["seed"] == 1
