"""Pretraining: its targets and losses on one batch, and a whole run in miniature."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hmr.body.model import Body
from hmr.policy.checkpoint import load_policy, save_compact
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.crop_cache import CropCache, CropDataset, _mirror_row, make_crops
from hmr.pretraining.losses import EncoderAndPoseLoss, LossWeights, _laplace_nll, joints_of, reproject
from hmr.pretraining.training import PretrainConfig, _starting_policy, interpolate_weights, pretrain
from hmr.synthetic.recipe import LAB
from hmr.synthetic.store import make_scenes, read_labelled
from hmr.types import OTHER_SIDE
from tests.contracts.test_encoder import save_backbone

TINY = {"crop_size": 64, "encoder_widths": [8, 12, 16], "width": 32, "depth": 1}
STAGE = {
    "max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip


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
    """The true camera has another focal length than the estimated one: the pelvis agrees, limbs nearly."""
    vectors = crops.targets["vector"]
    reprojected = reproject(vectors, joints_of(vectors, body), crops.targets["geometry"])
    off = (reprojected - crops.targets["keypoints"]).norm(dim=-1)
    assert off[:, 0].max() < 1e-3
    assert off.median() < 0.05


def test_every_part_learns_and_a_step_lowers_the_loss(
    crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy
):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    module = EncoderAndPoseLoss(tiny_policy, body, LossWeights(), 4).train()
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


def test_a_loss_of_weight_zero_has_no_gradient(crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(LossWeights)), 0.0)
    only_mask = LossWeights(**nothing | {"mask": 1.0})
    batch = torch.utils.data.default_collate([crops[i] for i in range(2)])
    EncoderAndPoseLoss(tiny_policy, body, only_mask, 2)(**batch)["loss"].backward()
    assert not any(p.grad.any() for p in tiny_policy.denoiser.parameters() if p.grad is not None)
    assert tiny_policy.encoder.mask.weight.grad is not None


def test_frozen_layers_do_not_change_nor_do_their_statistics(
    crops: CropDataset, body: Body, tiny_policy: DiffusionPolicy
):
    tiny_policy.requires_grad_(True)
    tiny_policy.fit_to(body, *crops.statistics(0.05))
    before = copy.deepcopy(tiny_policy.encoder.state_dict())
    module = EncoderAndPoseLoss(tiny_policy, body, LossWeights(), 2, frozen_layers=["stem", "fine"]).train()
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


def test_an_unknown_layer_cannot_be_frozen(body: Body, tiny_policy: DiffusionPolicy):
    with pytest.raises(ValueError, match=r"toes.*stem"):
        EncoderAndPoseLoss(tiny_policy, body, LossWeights(), 2, frozen_layers=["toes"])


def test_a_sigma_as_large_as_the_error_has_the_lowest_loss():
    """A Laplace whose mean distance is .3 has the standard deviation .3 sqrt(2): log .424 = -.858."""
    counted = torch.ones(5, 24)

    def loss(off_m: float, log_sigma: float) -> torch.Tensor:
        return _laplace_nll(torch.full((5, 24, 1), off_m), torch.full((5, 24), log_sigma), counted)

    assert loss(0.3, -0.858) < min(loss(0.3, -0.958), loss(0.3, -0.758))
    assert loss(0.0, -3.0) < loss(0.1, -3.0) < loss(0.3, -3.0)


def test_mirrored_rows_come_after_the_others(crops: CropDataset, body: Body):
    """Joints and keypoints are those of the mirrored body, and mirroring twice is the identity."""
    crops = copy.copy(crops)
    crops.mirrored = True
    assert len(crops) == 8
    row, mirror = crops[1], crops[5]
    assert torch.equal(mirror["crops"], row["crops"].flip(1))
    joints, mirrored = joints_of(torch.stack([row["vector"], mirror["vector"]]), body)
    flipped = joints[OTHER_SIDE] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(mirrored, flipped, atol=0.01, rtol=0)  # the body itself is nearly symmetric
    for name, column in _mirror_row(mirror).items():
        torch.testing.assert_close(column, row[name])


def test_a_start_policy_must_have_the_recipe_s_architecture(tmp_path: Path, tiny_policy: DiffusionPolicy):
    save_compact(tiny_policy, tmp_path / "small")
    config = PretrainConfig(start_from=str(tmp_path / "small"), policy={"depth": 9}, scenes=1, held_out=1)
    with pytest.raises(ValueError, match="depth"):
        pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_weights_are_interpolated(tiny_policy: DiffusionPolicy, alpha: float):
    learned = copy.deepcopy(tiny_policy)
    for tensor in learned.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(4.0)
    interpolate_weights(learned, tiny_policy, alpha)
    old, now = tiny_policy.state_dict(), learned.state_dict()
    moved = torch.cat([(now[name] - old[name]).flatten() for name in old if old[name].is_floating_point()])
    torch.testing.assert_close(moved, torch.full_like(moved, 4 * (1 - alpha)), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_settings_without_a_shape_may_change_from_the_start_policy(
    tmp_path: Path, tiny_policy: DiffusionPolicy
):
    save_compact(tiny_policy, tmp_path / "small")
    stage = {"max_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    others = {"mirror_look": True, "noise_temperature": 1.2, "solver": "dpm++", "num_inference_steps": 3}
    config = PretrainConfig(
        start_from=str(tmp_path / "small"), policy=others, scenes=2, held_out=1, refining=stage
    )
    policy = pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)
    assert {name: getattr(policy.config, name) for name in others} == others
    assert policy.digest() != tiny_policy.digest()


def test_an_unknown_frozen_layer_is_refused_before_anything_is_drawn(tmp_path: Path):
    config = PretrainConfig(policy=TINY, frozen_layers=("toes",), training=STAGE)
    with pytest.raises(ValueError, match=r"toes.*stem"):
        pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)
    assert not any(tmp_path.iterdir())


def test_arguments_that_transformers_refuses_are_reported_before_anything_is_drawn(tmp_path: Path):
    config = PretrainConfig(policy=TINY, training=STAGE, refining=STAGE | {"lr_scheduler_type": "cosign"})
    with pytest.raises(ValueError, match="cosign"):
        pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)
    assert not any(tmp_path.iterdir())


def test_the_seed_determines_the_initial_weights():
    one, again, other = (
        _starting_policy(PretrainConfig(seed=seed, policy=TINY)).digest() for seed in (6, 6, 7)
    )
    assert one == again != other


class Run:
    """A finished run of two stages, and copies of parts of it, as after a kill."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = PretrainConfig(
            scenes=40, held_out=8, times_per_image=2, rarity=1.0, policy=TINY | {"mirror_look": True},
            training=STAGE, refining=STAGE,
        )  # fmt: skip
        self.policy = self.again(self.config, "whole")

    def again(self, config: PretrainConfig, name: str) -> DiffusionPolicy:
        return pretrain(config, self.root / name, self.root / "cache", workers=1)

    def killed(self, name: str, *left: str) -> Path:
        for part in ("made_from.json", *left):
            target = self.root / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.root / "whole" / part
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        return self.root / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_a_run_writes_a_policy_and_its_history(run: Run):
    history = json.loads((run.root / "whole" / "training.json").read_text())
    assert {"see and pose", "pose"} < set(history)
    assert all(history[stage]["held_out"]["eval_loss"] > 0 for stage in ("see and pose", "pose"))
    assert load_policy(run.root / "whole").digest() == run.policy.digest()
    assert PretrainConfig(**history["config"] | {"losses": LossWeights(), "frozen_layers": ()}) == run.config


KILLS = {
    "in the first stage": ["see/checkpoint-2"],
    "between the stages": ["see/checkpoint-4"],
    "in the second stage": ["see/checkpoint-4", "pose/checkpoint-2"],
    "after the last step": ["see/checkpoint-4", "pose/checkpoint-4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS)
def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(run: Run, kill: str):
    """Also with other logging and data loading."""
    folder = run.killed(kill.replace(" ", "-"), *KILLS[kill])
    otherwise = STAGE | {"logging_steps": 1, "dataloader_num_workers": 2, "save_total_limit": 1}
    resumed = run.again(dataclasses.replace(run.config, training=otherwise, refining=otherwise), folder.name)
    assert resumed.digest() == run.policy.digest()
    whole, parts = (
        json.loads((run.root / name / "training.json").read_text()) for name in ("whole", folder.name)
    )
    for stage in ("see and pose", "pose"):
        assert parts[stage]["held_out"]["eval_loss"] == whole[stage]["held_out"]["eval_loss"]
    assert not list(folder.glob("*/checkpoint-5"))


@pytest.mark.slow
def test_a_finished_run_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch):
    before = {path: path.stat().st_mtime_ns for path in (run.root / "whole").rglob("*")}
    monkeypatch.setattr("hmr.pretraining.training.make_crops", None)  # it would be called to draw
    assert run.again(run.config, "whole").digest() == run.policy.digest()
    assert {path: path.stat().st_mtime_ns for path in (run.root / "whole").rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed 1, not 6"),
        ({"losses": LossWeights(mask=2.0)}, "losses.mask 0.3, not 2.0"),
        ({"training": STAGE | {"max_steps": 8}}, "training.max_steps 4, not 8"),
    ],
)
def test_another_run_is_refused_in_its_folder(run: Run, change: dict, message: str):
    for folder in (run.root / "whole", run.killed(f"killed-{message.split()[0]}", "see/checkpoint-2")):
        kept = (folder / "made_from.json").read_text()
        with pytest.raises(ValueError, match=f"holds another run .*{message}"):
            run.again(dataclasses.replace(run.config, **change), folder.name)
        assert (folder / "made_from.json").read_text() == kept


@pytest.mark.slow
def test_a_policy_trains_on_a_transformers_backbone(tmp_path: Path):
    """The features of a frozen DINOv2 go through both stages; its own weights are in no checkpoint."""
    backbone = save_backbone("dinov2", tmp_path / "backbone")
    shape = {"crop_size": 64, "width": 32, "depth": 1, "encoder": f"transformers:{backbone}"}
    config = PretrainConfig(scenes=8, held_out=4, policy=shape, training=STAGE, refining=STAGE)
    begun = _starting_policy(config).state_dict()
    policy = pretrain(config, tmp_path / "out", tmp_path / "cache", workers=1)
    assert policy.encoder.spec.name == str(backbone)
    learned = {name for name, value in policy.state_dict().items() if not torch.equal(value, begun[name])}
    assert {"encoder.neck.0.weight", "encoder.heatmap.weight", "regressor.1.weight"} < learned
    stored = load_file(tmp_path / "out/see/checkpoint-4/model.safetensors")
    assert not any("layer." in name or "embeddings" in name for name in stored)
