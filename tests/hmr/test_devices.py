"""What computes follows its policy's device, tried without an accelerator.

Torch's `meta` device has shapes and no data, and like any device it refuses to meet tensors of another: a constant or a
body that stays on the CPU fails here as it would on CUDA. What looks at data (which crops are augmented, which step of
a solver comes next) cannot run there and is left out.
"""

import contextlib

import pytest
import torch

from hmr.body import load_body
from hmr.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.pretrain_losses import LossWeights, Pose, SeeAndPose

META = torch.device("meta")
IMAGES = 3


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> DiffusionPolicy:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    config = DiffusionPolicyConfig(
        crop_size=64, encoder_widths=[8, 12, 16], width=32, depth=1, head_width=32, mirror_look=True
    )
    return DiffusionPolicy(config).to(META)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return {
        "crops": torch.empty(IMAGES, 64, 64, 3, dtype=torch.uint8, device=META),
        "vector": torch.empty(IMAGES, 157, device=META),
        "geometry": torch.empty(IMAGES, 8, device=META),
        "keypoints": torch.empty(IMAGES, 24, 2, device=META),
        "visible": torch.empty(IMAGES, 24, dtype=torch.bool, device=META),
        "mask": torch.empty(IMAGES, 16, 16, dtype=torch.uint8, device=META),
    }


def test_meta_refuses_what_lies_elsewhere():
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(2, device=META) + torch.ones(2)


def test_the_losses_from_pixels_follow(policy: DiffusionPolicy, batch: dict[str, torch.Tensor]):
    loss = SeeAndPose(policy, load_body(), LossWeights(), 2).eval()(**batch)["loss"]
    loss.backward()
    assert loss.device == META
    assert all(p.grad is not None for p in policy.regressor.parameters())


def test_the_losses_from_features_follow(policy: DiffusionPolicy, batch: dict[str, torch.Tensor]):
    seen = policy.look(torch.empty(IMAGES, 3, 64, 64, device=META))
    told = {name: batch[name] for name in ("vector", "geometry", "keypoints")}
    features = policy.seen_features(seen, batch["geometry"])
    assert Pose(policy, load_body(), LossWeights(), 2)(features=features, **told)["loss"].device == META


def test_a_guess_is_fitted_where_the_policy_is(policy: DiffusionPolicy):
    """Features are kept on the CPU, whatever made them."""
    policy.fit_guess(torch.empty(IMAGES, 2 * policy.seen_size), torch.empty(IMAGES, 157))
    assert policy.guess_std.device == META


def test_denoising_errors_follow(policy: DiffusionPolicy):
    condition = torch.empty(IMAGES, policy.seen_size + 157, device=META)
    x0, noise = torch.empty(IMAGES, 5, 157, device=META), torch.empty(IMAGES, 2, 157, device=META)
    timesteps = torch.zeros(IMAGES, 2, dtype=torch.long, device=META)
    assert policy(condition, x0, timesteps, noise).device == META
