"""`meshcritic pretrain`: an invalid recipe is rejected before anything is drawn; runs in miniature."""

import json
from pathlib import Path

import pytest
import yaml

from common.storage.versions import versions
from tests.command import call

STAGE = "max_steps: 1, per_device_train_batch_size: 2, use_cpu: true, disable_tqdm: true"
TINY = "policy: {width: 32, depth: 1, head_width: 32, head_depth: 1}"
TINY_ENCODER = "encoder: {crop_size: 64, encoder_widths: [8, 12, 16]}"

INVALID_RECIPES = {
    "an unknown detector": (
        "detectors: [yolo]",
        "no simulated detector is called 'yolo'; there are embedded",
    ),
    "an unknown loss": ("losses: {foo: 1}", "losses: unknown foo; allowed are denoise"),
    "losses that are a number": ("losses: 3", "losses takes dict[str, typing.Any], not 3"),
    "a mistyped setting of the policy": (
        "policy: {depht: 4}",
        "policy: unknown depht; allowed are alignment",
    ),
    "a mistyped field of the first stage": ("estimate: {max_step: 3}", "estimate: unknown max_step"),
    "a mistyped field of the second": ("denoiser: {max_step: 3}", "denoiser: unknown max_step"),
    "an unknown schedule": (f"{TINY}\nestimate: {{{STAGE}, lr_scheduler_type: sine}}", "sine"),
    "a missing initial policy": ("start_from: nowhere", "nowhere holds no policy"),
    "a recipe that is a list": ("- 3", "must hold a mapping of fields"),
}
INVALID_ENCODER_RECIPES = {
    "an unknown recipe": ("recipe: moon", "no recipe is called 'moon'; there are lab, wild"),
    "an unknown frozen layer": (
        f"{TINY_ENCODER}\nfrozen_layers: [toes]\ntraining: {{{STAGE}}}", "no layer 'toes' to freeze",
    ),
    "an unknown backbone": ("encoder: {backbone: resnet}", "'resnet'"),
    "the seed of a split": ("seed: 3", "seed 3 of lab draws the scenes of lab-test"),
    "a missing motion folder": (f"motion: nowhere\n{TINY_ENCODER}", "nowhere: there is no such folder"),
    "a missing backdrops folder": (f"backdrops: nowhere\n{TINY_ENCODER}", "nowhere: there is no such folder"),
    "a missing initial encoder": ("start_from: nowhere", "nowhere holds no"),
}  # fmt: skip


def check_is_rejected(folder: Path, monkeypatch, capsys, text: str, message: str, *options: str) -> None:
    (folder / "a.yaml").write_text(text)
    monkeypatch.chdir(folder)
    code, out, err = call(monkeypatch, capsys, "pretrain", "--config", "a.yaml", "--out", "o", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a.yaml"]


@pytest.mark.parametrize("fault", sorted(INVALID_RECIPES))
def test_an_invalid_recipe_ends_in_one_sentence(fault: str, tmp_path: Path, monkeypatch, capsys):
    check_is_rejected(tmp_path, monkeypatch, capsys, *INVALID_RECIPES[fault])


@pytest.mark.parametrize("fault", sorted(INVALID_ENCODER_RECIPES))
def test_an_invalid_recipe_of_an_encoder_ends_in_one_sentence(
    fault: str, tmp_path: Path, monkeypatch, capsys
):
    check_is_rejected(
        tmp_path, monkeypatch, capsys, *INVALID_ENCODER_RECIPES[fault], "--encoder", "--cache", "c"
    )


def test_a_run_writes_curves_and_rejects_another_run_in_its_folder(tmp_path: Path, monkeypatch, capsys):
    text = f"pool: 50\nheld_out: 8\n{TINY}\nestimate: {{{STAGE}}}\ndenoiser: {{{STAGE}}}\n"
    (tmp_path / "a.yaml").write_text(text)
    words = ("pretrain", "--config", "a.yaml", "--out", "o")
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert "checkpoint: o; learning curves: o/curves.svg" in err
    assert (tmp_path / "o" / "curves.svg").stat().st_size > 100
    assert list((tmp_path / "o" / "denoiser").rglob("events.out.tfevents*"))
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert (run["settings"]["pool"], run["settings"]["encoder"], run["versions"]) == (50, False, versions())
    weights = (tmp_path / "o" / "model.safetensors").read_bytes()

    code, out, _ = call(monkeypatch, capsys, *words, "--json")
    assert (code, json.loads(out)) == (0, {"checkpoint": "o", "curves": "o/curves.svg"})
    recipe = yaml.safe_load((tmp_path / "a.yaml").read_text()) | {"seed": 6, "losses": {"denoise": 2}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2
    assert err.startswith("meshcritic: o holds another run (seed 1, not 6; ")
    assert "losses.denoise 1.0, not 2.0" in err
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == weights
    assert json.loads((tmp_path / "o" / "training.json").read_text())["recipe"]["seed"] == 1


def test_the_run_of_an_encoder_writes_a_detector(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "a.yaml").write_text(f"scenes: 2\nheld_out: 1\n{TINY_ENCODER}\ntraining: {{{STAGE}}}\n")
    monkeypatch.chdir(tmp_path)
    words = ("--config", "a.yaml", "--out", "o", "--cache", "c", "--workers", 1)
    code, _, err = call(monkeypatch, capsys, "pretrain", "--encoder", *words)
    assert code == 0
    assert "checkpoint: o; learning curves: o/curves.svg" in err
    from hmr.detection.loading import load_detector

    assert load_detector("embedded:o").name == "embedded"
