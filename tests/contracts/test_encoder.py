"""What every encoder must do: crops -> `Seen`, the same in any company, differentiable in its heads.

The backbones are transformers' own classes, tiny, with random weights, read from folders as a user's would be. A new
kind adds a line to `BACKBONES`.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from hmr.policy.backbone import BackboneCard, TransformersEncoder, describe_backbone
from hmr.policy.encoder import DEEPEST_M, DEPTHS, CropEncoder, EncoderHeads, read_joints
from hmr.policy.feature_cache import FeatureCache

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VITPOSE = hf.VitPoseBackboneConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48], patch_size=[16, 16],
    out_indices=[-1],
)  # fmt: skip
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
# a model, and the input size that its processor gives
BACKBONES = {
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(image_size=64, patch_size=16, **SMALL)), (64, 64)),
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(image_size=98, patch_size=14, **SMALL)), (56, 56)),
    "dinov3": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(patch_size=16, **SMALL)), (64, 64)),
    "vitpose backbone": (lambda: hf.VitPoseBackbone(VITPOSE), (64, 48)),
    "vitpose": (
        lambda: hf.VitPoseForPoseEstimation(hf.VitPoseConfig(backbone_config=VITPOSE.to_dict())),
        (64, 48),
    ),
    "swin": (lambda: hf.SwinModel(hf.SwinConfig(**SWIN)), (64, 64)),
    "convnext": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
        (64, 64),
    ),
}


def save_backbone(kind: str, folder: Path) -> Path:
    make, (height, width) = BACKBONES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make().save_pretrained(folder)
    processor = {"size": {"height": height, "width": width}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module", params=["embedded", *BACKBONES])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderHeads:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "embedded":
            return CropEncoder((8, 12, 16)).eval()
        folder = save_backbone(request.param, tmp_path_factory.mktemp("backbone"))
        return TransformersEncoder(describe_backbone(str(folder))).eval()


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_its_answer_has_the_promised_sizes(encoder: EncoderHeads, crops: torch.Tensor):
    seen = encoder(crops)
    assert seen.vector.shape == (3, encoder.vector_size)
    assert seen.keypoints.shape == (3, 24, 2)
    assert seen.keypoints.abs().max() <= 1
    assert seen.depth_m.shape == (3, 24)
    assert seen.depth_m.abs().max() <= DEEPEST_M
    assert seen.mask_logit.shape == (3, 16, 16)  # a quarter of the crop's side
    assert all(value.isfinite().all() for value in vars(seen).values())
    assert encoder.pooled_size < encoder.vector_size


def test_the_vector_ends_in_what_the_heads_say(encoder: EncoderHeads, crops: torch.Tensor):
    seen = encoder(crops)
    told = read_joints(seen.vector)
    torch.testing.assert_close(told.keypoints, seen.keypoints)
    torch.testing.assert_close(told.sigma, seen.log_sigma.exp())
    torch.testing.assert_close(told.visible, seen.visible_logit.sigmoid())
    torch.testing.assert_close(told.depth_m, seen.depth_m)
    torch.testing.assert_close(told.depth_sigma_m, seen.depth_log_sigma.exp())


def test_a_crop_looks_the_same_in_any_company(encoder: EncoderHeads, crops: torch.Tensor):
    together, alone = encoder(crops), [encoder(crop[None]) for crop in crops]
    for name, value in vars(together).items():
        parts = torch.cat([getattr(seen, name) for seen in alone])
        torch.testing.assert_close(value, parts, atol=2e-3, rtol=2e-3)


def test_another_picture_is_another_vector(encoder: EncoderHeads, crops: torch.Tensor):
    vectors = encoder(torch.stack([crops[0], torch.zeros_like(crops[0])])).vector
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_its_own_parameters_learn(encoder: EncoderHeads, crops: torch.Tensor):
    seen = encoder(crops)
    encoder.zero_grad()
    sum(value.square().mean() for value in vars(seen).values()).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_what_is_seen_sharply_is_found_where_it_is(encoder: EncoderHeads):
    """A volume with one hot cell, of layer 4 of 16: soft-argmax gives the cell's middle, whatever made the grid."""
    channels = encoder.heatmap.in_channels
    grid = torch.zeros(1, channels, 8, 8)
    grid[0, :, 2, 5] = 1.0
    with torch.no_grad():
        weight = encoder.heatmap.weight.clone()
        encoder.heatmap.weight.fill_(0.0)
        encoder.heatmap.weight.unflatten(0, (24, DEPTHS))[:, 4] = 100.0
        keypoints, depth_m, _ = encoder._joints(grid)
        encoder.heatmap.weight.copy_(weight)
    # column 5 of 8: (5.5 / 8) * 2 - 1 = 0.375; row 2: (2.5 / 8) * 2 - 1 = -0.375; layer 4: (4.5 / 16) * 2 - 1 = -0.4375
    torch.testing.assert_close(keypoints[0], torch.tensor([0.375, -0.375]).expand(24, 2))
    torch.testing.assert_close(depth_m[0], torch.full((24,), -0.4375 * DEEPEST_M))


# -- what only frozen backbones must do ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_backbone("dinov2", tmp_path / "dinov2")


def test_a_card_says_what_the_processor_says(folder: Path):
    card = describe_backbone(str(folder))
    assert (card.height, card.width, card.patch, card.channels) == (56, 56, 14, 32)
    assert (card.mean, card.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_a_grid_keeps_the_order_of_patches(folder: Path):
    """A bright square in the crop's upper right changes the grid's upper right most."""
    encoder = TransformersEncoder(describe_backbone(str(folder))).eval()
    dark, lit = torch.zeros(2, 1, 3, 56, 56)
    lit[..., :14, 42:] = 1.0
    change = (encoder.features(lit) - encoder.features(dark)).float().norm(dim=1)[0]
    assert change.shape == (4, 4)
    assert divmod(int(change.argmax()), 4) == (0, 3)


def test_a_portrait_backbone_sees_the_middle_strip(tmp_path: Path, crops: torch.Tensor):
    """64 x 48 pixels in patches of 16 are 4 x 3; a square grid has 4 x 4, the last column of which nobody looked at."""
    encoder = TransformersEncoder(describe_backbone(str(save_backbone("vitpose backbone", tmp_path / "v"))))
    grid = encoder.features(crops)
    assert grid.shape == (3, 32, 4, 4)
    assert not grid[..., 3].any()
    beside = crops.clone()
    beside[..., :8] = beside[..., 56:] = 0
    assert torch.equal(encoder.features(beside), grid)


def test_the_backbone_is_frozen_and_not_in_the_state(folder: Path, crops: torch.Tensor):
    encoder = TransformersEncoder(describe_backbone(str(folder)))
    encoder(crops)
    assert not any(name.startswith("_held") or "layer" in name for name in encoder.state_dict())
    assert not any(p.requires_grad for p in encoder._held[0].parameters())
    assert not encoder.train()._held[0].training


def test_a_second_look_is_read_from_the_cache(folder: Path, crops: torch.Tensor, tmp_path: Path):
    encoder = TransformersEncoder(describe_backbone(str(folder))).eval()
    fresh = encoder.features(crops)
    encoder.cache = FeatureCache(tmp_path / "cache")
    first = encoder.features(crops[:2])
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2
    encoder._held = [torch.nn.Identity()]  # no backbone: it would fail on the crop that was not seen
    assert torch.equal(encoder.features(crops[:2]), first)
    torch.testing.assert_close(first, fresh[:2], atol=2e-3, rtol=2e-3)
    with pytest.raises(AttributeError):
        encoder.features(crops)


def test_the_cache_tells_pictures_shapes_and_backbones_apart(tmp_path: Path):
    cache, picture = FeatureCache(tmp_path), torch.rand(3, 4, 6)
    same, other = picture.clone(), picture.clone()
    other[0, 0, 0] += 1e-3
    keys = {cache.key("a", picture), cache.key("b", picture), cache.key("a", other)}
    assert len({*keys, cache.key("a", picture.reshape(3, 6, 4))}) == 4
    assert cache.key("a", same) in keys
    assert cache.get(cache.key("a", picture)) is None


def test_other_weights_in_the_same_folder_are_refused(folder: Path, crops: torch.Tensor):
    card = describe_backbone(str(folder))
    make, _ = BACKBONES["dinov2"]
    make().save_pretrained(folder)  # other random weights
    with pytest.raises(ValueError, match="another backbone"):
        TransformersEncoder(card)(crops)


def test_what_is_no_backbone_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        describe_backbone(str(tmp_path))


def test_tokens_that_are_no_grid_are_refused():
    from hmr.policy.backbone import _rows_and_columns

    card = BackboneCard("x", "1", 8, 4, 64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert _rows_and_columns(257, card) == (16, 16)  # 16 x 16 patches and a class token
    assert _rows_and_columns(64, card) == (8, 8)  # merged patches
    with pytest.raises(ValueError, match="no grid"):
        _rows_and_columns(7, card)
