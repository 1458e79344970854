"""Pretraining: its targets and losses on one batch, and a whole run in miniature."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainingArguments

from hmr.body import Body
from hmr.checkpoint import load_policy, save_compact
from hmr.data.crops import CropCache, CropDataset, make_crops
from hmr.data.mirror import OTHER_SIDE, mirror_crop
from hmr.data.recipe import LAB
from hmr.data.store import make_scenes, read_labelled
from hmr.policy import DiffusionPolicy
from hmr.pretrain import PretrainConfig, pretrain, read_config
from hmr.pretrain_losses import LossWeights, SeeAndPose, _unlikeliness, joints_of, reproject

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


def test_the_truth_reprojects_onto_its_keypoints_but_for_the_lens(crops: CropDataset, body: Body):
    """Truth was seen through another lens than the estimated one: the pelvis agrees, limbs nearly."""
    vectors = crops.targets["vector"]
    seen = reproject(vectors, joints_of(vectors, body), crops.targets["geometry"])
    off = (seen - crops.targets["keypoints"]).norm(dim=-1)
    assert off[:, 0].max() < 1e-3
    assert off.median() < 0.05


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
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(LossWeights)), 0.0)
    only_mask = LossWeights(**nothing | {"mask": 1.0})
    batch = torch.utils.data.default_collate([crops[i] for i in range(2)])
    SeeAndPose(tiny_policy, body, only_mask, 2)(**batch)["loss"].backward()
    assert not any(p.grad.any() for p in tiny_policy.denoiser.parameters() if p.grad is not None)
    assert tiny_policy.encoder.mask.weight.grad is not None


def test_parts_that_rest_stay_as_they_are_to_the_last_statistic(
    crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy
):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    before = copy.deepcopy(tiny_policy.encoder.state_dict())
    module = SeeAndPose(tiny_policy, body, LossWeights(), 2, resting=["stem", "fine"]).train()
    batch = torch.utils.data.default_collate([crops[i] for i in range(4)])
    module(**batch)["loss"].backward()
    torch.optim.SGD((p for p in module.parameters() if p.requires_grad), 1e-2).step()
    changed = {
        name
        for name, value in tiny_policy.encoder.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert not any(name.startswith(("stem.", "fine.")) for name in changed)
    assert {"middle.0.body.0.weight", "middle.0.body.1.running_mean"} <= changed


def test_a_part_that_is_not_there_cannot_rest(body: Body, tiny_policy: DiffusionPolicy):
    with pytest.raises(ValueError, match=r"toes.*stem"):
        SeeAndPose(tiny_policy, body, LossWeights(), 2, resting=["toes"])


def test_a_doubt_as_large_as_the_error_is_the_likeliest():
    """A Laplace whose mean distance is .3 has the standard deviation .3 sqrt(2): log .424 = -.858."""
    counted = torch.ones(5, 24)

    def loss(off_m: float, log_sigma: float) -> torch.Tensor:
        return _unlikeliness(torch.full((5, 24, 1), off_m), torch.full((5, 24), log_sigma), counted)

    assert loss(0.3, -0.858) < min(loss(0.3, -0.958), loss(0.3, -0.758))
    assert loss(0.0, -3.0) < loss(0.1, -3.0) < loss(0.3, -3.0)


def test_mirrored_rows_come_after_the_others(crops: CropDataset, body: Body):
    """A mirrored body's joints are the mirrored joints, its keypoints lie in the mirrored picture, twice is none."""
    crops = copy.copy(crops)
    crops.mirrored = True
    assert len(crops) == 8
    row, twin = crops[1], crops[5]
    assert torch.equal(twin["crops"], row["crops"].flip(1))
    joints, mirrored = joints_of(torch.stack([row["vector"], twin["vector"]]), body)
    flipped = joints[OTHER_SIDE] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(mirrored, flipped, atol=0.01, rtol=0)  # the body itself is nearly symmetric
    for name, column in mirror_crop(twin).items():
        torch.testing.assert_close(column, row[name])


def test_a_run_goes_on_only_from_its_own_shape(tmp_path: Path, tiny_policy: DiffusionPolicy):
    save_compact(tiny_policy, tmp_path / "small")
    config = PretrainConfig(start_from=str(tmp_path / "small"), policy={"depth": 9}, scenes=1, held_out=1)
    with pytest.raises(ValueError, match="depth"):
        pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)


def test_a_run_may_go_on_with_other_looks(tmp_path: Path, tiny_policy: DiffusionPolicy):
    save_compact(tiny_policy, tmp_path / "small")
    stage = {"max_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    others = {"mirror_look": True, "noise_temperature": 1.2, "solver": "dpm++", "num_inference_steps": 3}
    config = PretrainConfig(
        start_from=str(tmp_path / "small"), policy=others, scenes=2, held_out=1, refining=stage
    )
    policy = pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)
    assert {name: getattr(policy.config, name) for name in others} == others
    assert policy.digest() != tiny_policy.digest()


def test_an_unknown_key_is_named(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("sceens: 3\n")
    with pytest.raises(ValueError, match="sceens"):
        read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "recipe", sorted(Path("configs").glob("pretrain_*.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_recipe_is_readable(recipe: Path, tmp_path: Path):
    config = read_config(recipe)
    assert config.losses == LossWeights(**dataclasses.asdict(config.losses))
    assert config.policy["crop_size"] % 16 == 0
    for stage in (config.training, config.refining):
        TrainingArguments(output_dir=str(tmp_path), **stage | {"use_cpu": True})


def test_the_recipe_for_an_accelerator_has_the_shipped_shape():
    tiny, gpu = (read_config(Path("configs") / f"pretrain_{name}.yaml") for name in ("tiny", "tiny_gpu"))
    assert (gpu.policy, gpu.losses) == (tiny.policy, tiny.losses)
    assert gpu.seed != tiny.seed


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
        "rarity": 1.0,
        "policy": TINY | {"mirror_look": True},
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
