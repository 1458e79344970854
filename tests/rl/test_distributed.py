"""Two real processes over gloo train the same policy as one with batches twice as large, sharded or not."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rl.labels.body_labels import BodyLabels
from tests.processes import launch_module
from tests.rl.toy import CHANNELS, DIM


def launch(processes: int, *words: object) -> None:
    launch_module("tests.rl.launched", words, processes)


def saved_replay(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    scenes = BodyLabels(
        torch.randn(32, CHANNELS, generator=generator), torch.randn(32, DIM, generator=generator)
    )
    scenes.save(folder / "replay.safetensors")
    return folder / "replay.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "sharded"), [(0.5, []), (0.0, ["--fsdp"])], ids=["ddp", "fsdp"])
def test_two_processes_equal_one_with_the_double_batch(tmp_path, floor, sharded):
    replay = saved_replay(tmp_path)
    launch(1, tmp_path, 16, replay, floor)
    launch(2, tmp_path, 8, replay, floor, *sharded)
    folders = [tmp_path / f"{processes}-processes" for processes in (1, 2)]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    trained = [name for name in one if name.startswith("denoiser.")]
    assert trained
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in trained)
    logged = [safe_open(folder / "log.safetensors", "pt").metadata() for folder in folders]
    for name in (
        "loss-0",
        "kl-2",
        "denoise_loss/replay-1",
        "reward-0",
        *(["spread_kept-2"] if floor else []),
    ):
        assert float(logged[0][name]) == pytest.approx(float(logged[1][name]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [[], ["--fsdp"]], ids=["ddp", "fsdp"])
def test_two_processes_resume_to_the_same_policy(tmp_path, sharded):
    replay = saved_replay(tmp_path)
    launch(2, tmp_path / "whole", 8, replay, 0.0, *sharded, "--save")
    launch(2, tmp_path / "cut", 8, replay, 0.0, *sharded, "--resume", tmp_path / "whole" / "checkpoint-3")
    whole, resumed = (
        load_file(tmp_path / name / "2-processes" / "model.safetensors") for name in ("whole", "cut")
    )
    at_three = load_file(tmp_path / "whole" / "checkpoint-3" / "alignment_state.safetensors")
    name = "denoiser.mean.weight"
    assert not torch.equal(at_three[f"live/{name}"], at_three[f"reference/{name}"])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
