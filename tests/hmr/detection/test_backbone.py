"""A person encoder with a transformers backbone: its checkpoint, loading the backbone, and cached features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from common.reading.pretrained import save_compact
from hmr.detection.feature_cache import ENVIRONMENT_VARIABLE, FeatureCache
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig, load_encoder
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
def encoder(backbone: Path) -> PersonEncoder:
    config = PersonEncoderConfig(crop_size=64, encoder=f"transformers:{backbone}")
    return PersonEncoder(config).requires_grad_(False).eval()


def test_a_checkpoint_comes_back_and_holds_no_backbone(
    encoder: PersonEncoder, sample: Sample, tmp_path: Path
):
    vector = encoder.run_encoder([sample]).vector
    encoder.save_pretrained(tmp_path / "encoder")
    again = load_encoder(tmp_path / "encoder")
    torch.testing.assert_close(again.run_encoder([sample]).vector, vector)
    assert again.digest() == encoder.digest()
    assert again.network.spec == encoder.network.spec
    assert not any("layer." in name for name in again.state_dict())


def test_weights_are_read_without_the_backbone(encoder: PersonEncoder, backbone: Path, tmp_path: Path):
    """The backbone is loaded at the first pass."""
    save_compact(encoder, tmp_path / "encoder")
    backbone.rename(tmp_path / "elsewhere")
    assert load_encoder(tmp_path / "encoder").network.vector_size == encoder.network.vector_size


def test_a_missing_backbone_is_named(encoder: PersonEncoder, sample: Sample, backbone: Path, tmp_path: Path):
    encoder.save_pretrained(tmp_path / "encoder")
    backbone.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="backbone"):
        load_encoder(tmp_path / "encoder").run_encoder([sample])


@pytest.mark.parametrize("change", [{"revision": "another"}, {"height": 70}, {"mean": (0.0, 0.0, 0.0)}])
def test_the_digest_depends_on_the_backbone_and_its_input(encoder: PersonEncoder, change: dict):
    before, network = encoder.digest(), encoder.network
    network.spec = dataclasses.replace(network.spec, name="elsewhere")
    assert encoder.digest() == before  # a folder may move
    network.spec = dataclasses.replace(network.spec, **change)
    assert encoder.digest() != before


def test_a_loaded_encoder_caches_its_backbone_s_features(
    encoder: PersonEncoder, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder.save_pretrained(tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").network.cache is None  # conftest switches it off
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "features"))
    first = load_encoder(tmp_path / "encoder").run_encoder([sample]).vector
    assert len(list((tmp_path / "features").rglob("*.npy"))) == 1
    again = load_encoder(tmp_path / "encoder")
    monkeypatch.setattr(again.network, "_run_backbone", None)  # a pass of the backbone fails
    assert torch.equal(again.run_encoder([sample]).vector, first)


def test_features_under_autocast_or_in_training_are_not_cached(encoder: PersonEncoder, tmp_path: Path):
    """Under autocast the features are bfloat16, which differ."""
    network, crops = encoder.network, torch.rand(1, 3, 64, 64)
    network.cache = FeatureCache(tmp_path / "features")
    with torch.autocast("cpu", torch.bfloat16):
        network.features(crops)
    network.train().features(crops)
    assert not (tmp_path / "features").exists()
    network.eval().features(crops)
    assert (tmp_path / "features").exists()


def test_an_unknown_encoder_is_named():
    with pytest.raises(ValueError, match="resnet"):
        PersonEncoder(PersonEncoderConfig(encoder="resnet"))
