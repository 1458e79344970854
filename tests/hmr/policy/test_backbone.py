"""A policy with a transformers backbone: its checkpoint, loading the backbone, and cached features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.policy.checkpoint import load_policy, save_compact
from hmr.policy.feature_cache import ENVIRONMENT_VARIABLE, FeatureCache
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.types import Box, Camera, Sample
from tests.contracts.test_encoder import save_backbone


@pytest.fixture
def sample() -> Sample:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    return Sample("x", image, Box(10.0, 5.0, 70.0, 85.0), Camera.estimate(120, 90))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return save_backbone("dinov2", tmp_path / "backbone")


@pytest.fixture
def policy(backbone: Path) -> DiffusionPolicy:
    config = DiffusionPolicyConfig(crop_size=64, width=32, depth=1, encoder=f"transformers:{backbone}")
    return DiffusionPolicy(config).requires_grad_(False).eval()


def test_a_checkpoint_comes_back_and_holds_no_backbone(
    policy: DiffusionPolicy, sample: Sample, tmp_path: Path
):
    condition = policy.encode([sample]).condition
    policy.save_pretrained(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    torch.testing.assert_close(again.encode([sample]).condition, condition)
    assert again.digest() == policy.digest()
    assert again.encoder.spec == policy.encoder.spec
    assert not any("layer." in name for name in again.state_dict())
    again.sample(again.encode([sample]), 3, torch.Generator().manual_seed(0))


def test_weights_are_read_without_the_backbone(policy: DiffusionPolicy, backbone: Path, tmp_path: Path):
    """Alignment needs only features: the backbone is loaded at the first pass."""
    save_compact(policy, tmp_path / "policy")
    backbone.rename(tmp_path / "elsewhere")
    assert load_policy(tmp_path / "policy").encoder.vector_size == policy.encoder.vector_size


def test_a_missing_backbone_is_named(policy: DiffusionPolicy, sample: Sample, backbone: Path, tmp_path: Path):
    policy.save_pretrained(tmp_path / "policy")
    backbone.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="backbone"):
        load_policy(tmp_path / "policy").encode([sample])


@pytest.mark.parametrize("change", [{"revision": "another"}, {"height": 70}, {"mean": (0.0, 0.0, 0.0)}])
def test_the_digest_depends_on_the_backbone_and_its_input(policy: DiffusionPolicy, change: dict):
    before = policy.digest()
    policy.encoder.spec = dataclasses.replace(policy.encoder.spec, name="elsewhere")
    assert policy.digest() == before  # a folder may move
    policy.encoder.spec = dataclasses.replace(policy.encoder.spec, **change)
    assert policy.digest() != before


def test_a_loaded_policy_caches_its_backbone_s_features(
    policy: DiffusionPolicy, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    policy.save_pretrained(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").encoder.cache is None  # conftest switches it off
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "features"))
    first = load_policy(tmp_path / "policy").encode([sample]).condition
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 1
    again = load_policy(tmp_path / "policy")
    monkeypatch.setattr(again.encoder, "_run_backbone", None)  # a pass of the backbone fails
    assert torch.equal(again.encode([sample]).condition, first)


def test_features_under_autocast_or_in_training_are_not_cached(policy: DiffusionPolicy, tmp_path: Path):
    """Under autocast the features are bfloat16, which differ."""
    encoder, crops = policy.encoder, torch.rand(1, 3, 64, 64)
    encoder.cache = FeatureCache(tmp_path / "features")
    with torch.autocast("cpu", torch.bfloat16):
        encoder.features(crops)
    encoder.train().features(crops)
    assert not (tmp_path / "features").exists()
    encoder.eval().features(crops)
    assert (tmp_path / "features").exists()


def test_an_unknown_encoder_or_denoiser_is_named():
    with pytest.raises(ValueError, match="resnet"):
        DiffusionPolicy(DiffusionPolicyConfig(encoder="resnet"))
    with pytest.raises(ValueError, match="unet"):
        DiffusionPolicy(DiffusionPolicyConfig(denoiser="unet"))


def test_a_token_policy_comes_back_the_same(sample: Sample, tmp_path: Path):
    config = DiffusionPolicyConfig(
        crop_size=64, encoder_widths=(8, 12, 16), width=32, depth=1, heads=4, denoiser="tokens", solver="ddim"
    )
    policy = DiffusionPolicy(config).requires_grad_(False).eval()
    policy.save_pretrained(tmp_path)
    again = load_policy(tmp_path)
    assert again.digest() == policy.digest()
    one, two = (
        each.sample(each.encode([sample]), 3, torch.Generator().manual_seed(0))[0].params
        for each in (policy, again)
    )
    torch.testing.assert_close(one.betas, two.betas)
