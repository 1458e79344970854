"""Untrusted checkpoints: a wrong config or other weights are named, and nothing else is read or loaded."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hmr.detection.person_encoder import load_encoder
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, Features

WRONG: dict[str, tuple[Any, str]] = {
    "width": ("384", "takes int, not '384'"),
    "depth": (10_000_000, "depth must be from 1 to 256"),
    "head_depth": (-1, "head_depth must be from 0 to 256"),
    "num_train_timesteps": (10**10, "num_train_timesteps must be from 2 to 100000"),
    "num_inference_steps": (10.5, "takes int, not 10.5"),
    "noise_temperature": (math.nan, "noise_temperature must be from 0 to 10"),
    "crop_scale": (None, "takes float, not None"),
    "solver": ("euler", "solver is one of"),
    "denoiser": ({}, "takes str"),
    "tokens": ("x", "no token layout is called 'x'"),
    "model_type": ("bert", "is the config of another model"),
}


@pytest.fixture
def folder(tiny_policy: DiffusionPolicy, tmp_path: Path) -> Path:
    tiny_policy.save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_the_file(folder: Path, name: str) -> None:
    value, message = WRONG[name]
    edit(folder, **({"denoiser": "tokens"} if name == "tokens" else {}), **{name: value})
    with pytest.raises(ValueError, match=message) as raised:
        load_policy(folder)
    assert str(raised.value).startswith(str(folder / "config.json"))


@pytest.mark.parametrize("text", ["{", "", "[]", "null", '"x"', "[" * 100_000, "\xff"])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json (is not a JSON file|holds a JSON)"):
        load_policy(folder)


def test_settings_of_transformers_that_load_other_code_are_not_read(folder: Path) -> None:
    before = load_policy(folder).digest()
    edit(
        folder,
        quantization_config={"quant_method": "bitsandbytes"},
        _attn_implementation="somebody/kernel",
        dtype="foo",
    )
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert load_policy(folder).digest() == before


def test_pickles_and_files_outside_the_folder_are_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    outside = folder.parent / "outside.safetensors"
    weights.rename(outside)
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(outside), f"../{outside.name}")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"has no model\.safetensors; other formats of weights are not read"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state | {"more": torch.zeros(2)},
            "tensors that its config.json does not ask for: more",
        ),
        (
            lambda state: state | {"mean": torch.zeros(3)},
            r"mean has shape \(3,\), but its config.json asks for",
        ),
        (lambda state: state | {"mean": state["mean"].to(torch.int8)}, "mean holds numbers of type I8"),
        (lambda state: state | {"mean": state["mean"].to(torch.complex64)}, "mean holds numbers of type C64"),
        (lambda state: state | {"mean": state["mean"] / 0}, "weights that are not finite"),
    ],
    ids=["more", "shape", "integers", "complex", "not finite"],
)
def test_other_weights_than_the_config_asks_for_are_refused(folder: Path, change, message: str) -> None:
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights)
    with pytest.raises(ValueError, match=message):
        load_policy(folder)


def test_a_policy_whose_bodies_are_not_finite_poses_nobody(tiny_policy: DiffusionPolicy) -> None:
    tiny_policy.std.fill_(torch.finfo(torch.float32).max)
    tiny_policy.mean.fill_(torch.finfo(torch.float32).max)
    features = Features(torch.zeros(1, tiny_policy.feature_size + 157), torch.ones(1, 8))
    with pytest.raises(ValueError, match="bodies that are not finite"):
        tiny_policy.sample(features, 2, torch.Generator().manual_seed(0))


def test_a_config_of_an_encoder_is_checked_too(tiny_encoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path)
    edit(tmp_path, encoder_widths=[8, 16])
    with pytest.raises(ValueError, match=r"config\.json: no model can be made from it"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a JSON list"):
        load_encoder(tmp_path)
