"""Training of the person encoder: its targets and losses on one batch, and a whole run in miniature."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.reading.pretrained import save_compact
from hmr.body.model import Body
from hmr.detection.person_encoder import PersonEncoder, load_encoder
from hmr.pretraining.crop_cache import CropCache, CropDataset, _mirror_row, make_crops
from hmr.pretraining.encoder_recipe import EncoderLossWeights, EncoderRecipe
from hmr.pretraining.encoder_training import (
    EncoderLoss,
    _laplace_nll,
    _starting_encoder,
    interpolate_weights,
    train_encoder,
)
from hmr.synthetic.recipe import LAB
from hmr.synthetic.store import make_scenes, read_labelled
from hmr.types import OTHER_SIDE
from tests.contracts.test_encoder import save_backbone

TINY = {"crop_size": 64, "encoder_widths": [8, 12, 16]}
STAGE = {
    "max_steps": 4, "per_device_train_batch_size": 8, "save_steps": 2, "use_cpu": True, "report_to": "none",
    "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropDataset:
    return CropDataset(make_crops(CropCache(LAB, 9, 4, 64, 1.2), tmp_path_factory.mktemp("crops")))


def test_targets_are_the_scene_s_truth(crops: CropDataset, body: Body, tmp_path: Path):
    scenes = read_labelled(make_scenes(tmp_path / "set", LAB, 9, 4))
    for row, scene in enumerate(scenes):
        true, square = scene.truth.joints_cam_m, scene.sample.box.square(1.2)
        torch.testing.assert_close(crops[row]["depth_m"], true[:, 2] - true[0, 2])
        pixels = crops[row]["keypoints"] * square.side / 2 + torch.tensor(square.center)
        torch.testing.assert_close(pixels, scene.truth.keypoints_px, atol=1e-2, rtol=0)


def batch_of(crops: CropDataset, count: int) -> dict[str, torch.Tensor]:
    return torch.utils.data.default_collate([crops[row] for row in range(count)])


def test_every_part_learns_and_a_step_lowers_the_loss(crops: CropDataset, tiny_encoder: PersonEncoder):
    tiny_encoder.requires_grad_(True)
    module, batch = EncoderLoss(tiny_encoder, EncoderRecipe()).train(), batch_of(crops, 4)
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
    without = {"part.weight", "part.bias"}  # features for other components
    for name, value in tiny_encoder.network.named_parameters():
        assert name in without or (value.grad is not None and value.grad.isfinite().all())
    assert losses[-1] < losses[0]


def test_a_loss_of_weight_zero_has_no_gradient(crops: CropDataset, tiny_encoder: PersonEncoder):
    tiny_encoder.requires_grad_(True)
    only_mask = EncoderLossWeights(keypoints=0.0, depths=0.0, visible=0.0, mask=1.0)
    module = EncoderLoss(tiny_encoder, EncoderRecipe(losses=only_mask))
    module(**batch_of(crops, 2))["loss"].backward()
    assert not tiny_encoder.network.heatmap.weight.grad.any()
    assert tiny_encoder.network.mask.weight.grad.any()


def test_frozen_layers_do_not_change_nor_do_their_statistics(crops: CropDataset, tiny_encoder: PersonEncoder):
    tiny_encoder.requires_grad_(True)
    before = copy.deepcopy(tiny_encoder.network.state_dict())
    module = EncoderLoss(tiny_encoder, EncoderRecipe(frozen_layers=("stem", "fine"))).train()
    module(**batch_of(crops, 4))["loss"].backward()
    torch.optim.SGD((p for p in module.parameters() if p.requires_grad), 1e-2).step()
    after = tiny_encoder.network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("stem.", "fine.")) for name in changed)
    assert {"middle.0.body.0.weight", "middle.0.body.1.running_mean"} <= changed


def test_an_unknown_layer_cannot_be_frozen(tiny_encoder: PersonEncoder):
    with pytest.raises(ValueError, match=r"toes.*stem"):
        EncoderLoss(tiny_encoder, EncoderRecipe(frozen_layers=("toes",)))


def test_a_sigma_as_large_as_the_error_has_the_lowest_loss():
    """A Laplace whose mean distance is .3 has the standard deviation .3 sqrt(2): log .424 = -.858."""
    counted = torch.ones(5, 24)

    def loss(off_m: float, log_sigma: float) -> torch.Tensor:
        return _laplace_nll(torch.full((5, 24, 1), off_m), torch.full((5, 24), log_sigma), counted)

    assert loss(0.3, -0.858) < min(loss(0.3, -0.958), loss(0.3, -0.758))
    assert loss(0.0, -3.0) < loss(0.1, -3.0) < loss(0.3, -3.0)


def test_mirrored_rows_come_after_the_others(crops: CropDataset):
    """Joints and keypoints are those of the mirrored body, and mirroring twice is the identity."""
    crops = copy.copy(crops)
    crops.mirrored = True
    assert len(crops) == 8
    row, mirror = crops[1], crops[5]
    assert torch.equal(mirror["crops"], row["crops"].flip(1))
    torch.testing.assert_close(mirror["depth_m"], row["depth_m"][OTHER_SIDE])
    for name, column in _mirror_row(mirror).items():
        torch.testing.assert_close(column, row[name])


def test_a_start_encoder_must_have_the_recipe_s_architecture(tmp_path: Path, tiny_encoder: PersonEncoder):
    save_compact(tiny_encoder, tmp_path / "small")
    recipe = EncoderRecipe(
        start_from=str(tmp_path / "small"), encoder={"crop_size": 96}, scenes=1, held_out=1
    )
    with pytest.raises(ValueError, match="crop_size"):
        train_encoder(recipe, tmp_path / "out", tmp_path / "cache", workers=1)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_weights_are_interpolated(tiny_encoder: PersonEncoder, alpha: float):
    learned = copy.deepcopy(tiny_encoder)
    for tensor in learned.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(4.0)
    interpolate_weights(learned, tiny_encoder, alpha)
    old, now = tiny_encoder.state_dict(), learned.state_dict()
    moved = torch.cat([(now[name] - old[name]).flatten() for name in old if old[name].is_floating_point()])
    torch.testing.assert_close(moved, torch.full_like(moved, 4 * (1 - alpha)), atol=1e-4, rtol=0)


def test_an_unknown_frozen_layer_is_refused_before_anything_is_drawn(tmp_path: Path):
    recipe = EncoderRecipe(encoder=TINY, frozen_layers=("toes",), training=STAGE)
    with pytest.raises(ValueError, match=r"toes.*stem"):
        train_encoder(recipe, tmp_path / "out", tmp_path / "cache", workers=1)
    assert not any(tmp_path.iterdir())


def test_arguments_that_transformers_refuses_are_reported_before_anything_is_drawn(tmp_path: Path):
    recipe = EncoderRecipe(encoder=TINY, training=STAGE | {"lr_scheduler_type": "cosign"})
    with pytest.raises(ValueError, match="cosign"):
        train_encoder(recipe, tmp_path / "out", tmp_path / "cache", workers=1)
    assert not any(tmp_path.iterdir())


def test_the_seed_determines_the_initial_weights():
    one, again, other = (
        _starting_encoder(EncoderRecipe(seed=seed, encoder=TINY)).digest() for seed in (6, 6, 7)
    )
    assert one == again != other


class Run:
    """A finished run, and copies of parts of it, as after a kill."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = EncoderRecipe(
            scenes=40, held_out=8, rarity=1.0, encoder=TINY | {"flip_test": True}, training=STAGE
        )
        self.encoder = self.again(self.recipe, "whole")

    def again(self, recipe: EncoderRecipe, name: str) -> PersonEncoder:
        return train_encoder(recipe, self.root / name, self.root / "cache", workers=1)

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
def test_a_run_writes_an_encoder_and_its_history(run: Run):
    history = json.loads((run.root / "whole" / "training.json").read_text())
    assert history["encoder"]["held_out"]["eval_loss"] > 0
    loaded = load_encoder(run.root / "whole")
    assert loaded.digest() == run.encoder.digest()
    assert loaded.config.flip_test


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["checkpoint-2", "checkpoint-4"])
def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(run: Run, checkpoint: str):
    """Also with other logging and data loading."""
    folder = run.killed(f"after-{checkpoint}", checkpoint)
    otherwise = STAGE | {"logging_steps": 1, "dataloader_num_workers": 2, "save_total_limit": 1}
    resumed = run.again(dataclasses.replace(run.recipe, training=otherwise), folder.name)
    assert resumed.digest() == run.encoder.digest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed 1, not 6"),
        ({"losses": EncoderLossWeights(mask=2.0)}, "losses.mask 0.3, not 2.0"),
        ({"training": STAGE | {"max_steps": 8}}, "training.max_steps 4, not 8"),
    ],
)
def test_another_run_is_refused_in_its_folder(run: Run, change: dict, message: str):
    with pytest.raises(ValueError, match=f"holds another run .*{message}"):
        run.again(dataclasses.replace(run.recipe, **change), "whole")


@pytest.mark.slow
def test_an_encoder_trains_on_a_transformers_backbone(tmp_path: Path):
    """On a frozen DINOv2, whose weights are in no checkpoint."""
    backbone = save_backbone("dinov2", tmp_path / "backbone")
    shape = {"crop_size": 64, "encoder": f"transformers:{backbone}"}
    recipe = EncoderRecipe(scenes=8, held_out=4, encoder=shape, training=STAGE)
    begun = _starting_encoder(recipe).state_dict()
    encoder = train_encoder(recipe, tmp_path / "out", tmp_path / "cache", workers=1)
    assert encoder.network.spec.name == str(backbone)
    learned = {name for name, value in encoder.state_dict().items() if not torch.equal(value, begun[name])}
    assert {"network.neck.0.weight", "network.heatmap.weight"} < learned
    stored = load_file(tmp_path / "out/checkpoint-4/model.safetensors")
    assert not any("layer." in name or "embeddings" in name for name in stored)
