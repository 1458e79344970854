"""Pretraining: its targets and losses on one batch, and a whole run in miniature."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from hmr.body import Body
from hmr.checkpoint import load_policy
from hmr.data.crops import CropCache, CropDataset, make_crops
from hmr.data.recipe import LAB
from hmr.data.store import make_scenes, read_labelled
from hmr.policy import DiffusionPolicy
from hmr.pretrain import pretrain, read_config
from hmr.pretrain_losses import LossWeights, SeeAndPose, joints_of

TINY = {"crop_size": 64, "encoder_widths": [8, 12, 16], "width": 32, "depth": 1}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropDataset:
    return CropDataset(make_crops(CropCache(LAB, 9, 4, 64, 1.2), tmp_path_factory.mktemp("crops")))


def test_targets_are_the_scene_s_truth(crops: CropDataset, body: Body, tmp_path: Path):
    scenes = read_labelled(make_scenes(tmp_path / "set", LAB, 9, 4))
    vectors = crops.targets["vector"]
    for joints, scene in zip(joints_of(vectors, body), scenes, strict=True):
        true = scene.truth.joints_cam_m
        torch.testing.assert_close(joints, true - true[0], atol=1e-4, rtol=0)
    for keypoints, scene in zip(crops.targets["keypoints"], scenes, strict=True):
        square = scene.sample.box.square(1.2)
        pixels = keypoints * square.side / 2 + torch.tensor(square.center)
        torch.testing.assert_close(pixels, scene.truth.keypoints_px, atol=1e-2, rtol=0)


def test_every_part_learns_and_a_step_lowers_the_loss(
    crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy
):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    module = SeeAndPose(tiny_policy, body, LossWeights(), 4).train()
    batch = torch.utils.data.default_collate([crops[i] for i in range(4)])
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    with torch.random.fork_rng():
        for _ in range(12):
            torch.manual_seed(0)
            loss = module(**batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    for part in (tiny_policy.encoder, tiny_policy.denoiser, tiny_policy.regressor):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert losses[-1] < losses[0]


def test_a_loss_without_weight_teaches_nothing(crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    only_mask = LossWeights(0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    batch = torch.utils.data.default_collate([crops[i] for i in range(2)])
    SeeAndPose(tiny_policy, body, only_mask, 2)(**batch)["loss"].backward()
    assert not any(p.grad.any() for p in tiny_policy.denoiser.parameters() if p.grad is not None)
    assert tiny_policy.encoder.mask.weight.grad is not None


def test_an_unknown_key_is_named(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("sceens: 3\n")
    with pytest.raises(ValueError, match="sceens"):
        read_config(tmp_path / "a.yaml")


def test_the_shipped_recipe_is_readable():
    config = read_config(Path("configs/pretrain_tiny.yaml"))
    assert config.losses == LossWeights(**dataclasses.asdict(config.losses))
    assert config.policy["crop_size"] % 16 == 0


@pytest.mark.slow
def test_a_run_resumes_and_leaves_a_policy(tmp_path: Path):
    stage = {
        "max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "use_cpu": True, "report_to": "none",
        "disable_tqdm": True,
    }  # fmt: skip
    recipe = {
        "scenes": 40,
        "held_out": 8,
        "times_per_image": 2,
        "policy": TINY,
        "training": stage,
        "refining": stage,
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    config = read_config(tmp_path / "a.yaml")
    whole = pretrain(config, tmp_path / "whole", tmp_path / "cache", workers=1)
    history = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert {"see and pose", "pose"} < set(history)
    assert all(history[stage]["held_out"]["eval_loss"] > 0 for stage in ("see and pose", "pose"))
    assert load_policy(tmp_path / "whole").digest() == whole.digest()

    # as a kill after the second step would leave it
    shutil.copytree(tmp_path / "whole/see/checkpoint-2", tmp_path / "parts/see/checkpoint-2")
    resumed = pretrain(config, tmp_path / "parts", tmp_path / "cache", workers=1)
    assert resumed.digest() == whole.digest()
