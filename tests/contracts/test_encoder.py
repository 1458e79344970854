"""The contract of every encoder: crops -> `EncoderOutput`, independent of the batch, differentiable in its heads.

The backbones are tiny models of transformers' classes with random weights, read from folders. A new kind adds a line to
`BACKBONES`.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from hmr.detection.backbone import BackboneSpec, TransformersEncoder, describe_backbone
from hmr.detection.encoder import DEEPEST_M, DEPTHS, CropEncoder, EncoderHeads, unpack_joints
from hmr.detection.feature_cache import FeatureCache

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


def test_the_output_has_the_documented_shapes(encoder: EncoderHeads, crops: torch.Tensor):
    output = encoder(crops)
    assert output.vector.shape == (3, encoder.vector_size)
    assert output.keypoints.shape == (3, 24, 2)
    assert output.keypoints.abs().max() <= 1
    assert output.depth_m.shape == (3, 24)
    assert output.depth_m.abs().max() <= DEEPEST_M
    assert output.mask_logit.shape == (3, 16, 16)  # a quarter of the crop's side
    assert all(value.isfinite().all() for value in vars(output).values())
    assert encoder.pooled_size < encoder.vector_size


def test_the_vector_ends_with_the_joints(encoder: EncoderHeads, crops: torch.Tensor):
    output = encoder(crops)
    joints = unpack_joints(output.vector)
    torch.testing.assert_close(joints.keypoints, output.keypoints)
    torch.testing.assert_close(joints.sigma, output.log_sigma.exp())
    torch.testing.assert_close(joints.visible, output.visible_logit.sigmoid())
    torch.testing.assert_close(joints.depth_m, output.depth_m)
    torch.testing.assert_close(joints.depth_sigma_m, output.depth_log_sigma.exp())


def test_a_crop_s_output_does_not_depend_on_the_batch(encoder: EncoderHeads, crops: torch.Tensor):
    together, alone = encoder(crops), [encoder(crop[None]) for crop in crops]
    for name, value in vars(together).items():
        parts = torch.cat([getattr(output, name) for output in alone])
        torch.testing.assert_close(value, parts, atol=2e-3, rtol=2e-3)


def test_different_crops_have_different_vectors(encoder: EncoderHeads, crops: torch.Tensor):
    vectors = encoder(torch.stack([crops[0], torch.zeros_like(crops[0])])).vector
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_every_parameter_has_a_gradient(encoder: EncoderHeads, crops: torch.Tensor):
    output = encoder(crops)
    encoder.zero_grad()
    sum(value.square().mean() for value in vars(output).values()).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_soft_argmax_of_one_hot_cell(encoder: EncoderHeads):
    """A volume with one hot cell, of layer 4 of 16: soft-argmax gives the centre of the cell."""
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


# -- frozen backbones -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_backbone("dinov2", tmp_path / "dinov2")


def test_a_spec_has_the_processor_s_values(folder: Path):
    spec = describe_backbone(str(folder))
    assert (spec.height, spec.width, spec.patch, spec.channels) == (56, 56, 14, 32)
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_a_grid_keeps_the_order_of_patches(folder: Path):
    """A bright square in the crop's upper right changes the grid's upper right most."""
    encoder = TransformersEncoder(describe_backbone(str(folder))).eval()
    dark, lit = torch.zeros(2, 1, 3, 56, 56)
    lit[..., :14, 42:] = 1.0
    change = (encoder.features(lit) - encoder.features(dark)).float().norm(dim=1)[0]
    assert change.shape == (4, 4)
    assert divmod(int(change.argmax()), 4) == (0, 3)


def test_a_portrait_backbone_gets_the_middle_strip(tmp_path: Path, crops: torch.Tensor):
    """64 x 48 pixels in patches of 16 are 4 x 3; a square grid has 4 x 4, the last column of which is empty."""
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
    assert not any(name.startswith("_backbone") or "layer" in name for name in encoder.state_dict())
    assert not any(p.requires_grad for p in encoder._backbone[0].parameters())
    assert not encoder.train()._backbone[0].training


def test_a_second_pass_reads_the_cache(folder: Path, crops: torch.Tensor, tmp_path: Path):
    encoder = TransformersEncoder(describe_backbone(str(folder))).eval()
    fresh = encoder.features(crops)
    encoder.cache = FeatureCache(tmp_path / "cache")
    first = encoder.features(crops[:2])
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2
    encoder._backbone = [torch.nn.Identity()]  # no backbone: a crop that is not cached fails
    assert torch.equal(encoder.features(crops[:2]), first)
    torch.testing.assert_close(first, fresh[:2], atol=2e-3, rtol=2e-3)
    with pytest.raises(AttributeError):
        encoder.features(crops)


def test_the_cache_key_depends_on_pixels_shape_and_backbone(tmp_path: Path):
    cache, crop = FeatureCache(tmp_path), torch.rand(3, 4, 6)
    same, other = crop.clone(), crop.clone()
    other[0, 0, 0] += 1e-3
    keys = {cache.key("a", crop), cache.key("b", crop), cache.key("a", other)}
    assert len({*keys, cache.key("a", crop.reshape(3, 6, 4))}) == 4
    assert cache.key("a", same) in keys
    assert cache.get(cache.key("a", crop)) is None


def test_other_weights_in_the_same_folder_are_refused(folder: Path, crops: torch.Tensor):
    spec = describe_backbone(str(folder))
    make, _ = BACKBONES["dinov2"]
    make().save_pretrained(folder)  # other random weights
    with pytest.raises(ValueError, match="another backbone"):
        TransformersEncoder(spec)(crops)


def test_a_folder_without_a_backbone_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        describe_backbone(str(tmp_path))


def test_tokens_that_form_no_grid_are_refused():
    from hmr.detection.backbone import _rows_and_columns

    spec = BackboneSpec("x", "1", 8, 4, 64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert _rows_and_columns(257, spec) == (16, 16)  # 16 x 16 patches and a class token
    assert _rows_and_columns(64, spec) == (8, 8)  # merged patches
    with pytest.raises(ValueError, match="do not form a grid"):
        _rows_and_columns(7, spec)
