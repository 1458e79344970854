"""Laws of the diffusion policy, on an untrained one."""

import copy
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from common.reading.pretrained import save_compact
from hmr.detection.protocol import detect_all
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.types import BodyParams, Box, Camera, Sample


@pytest.fixture
def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 90, 120, 3), dtype=np.uint8)
    boxes = [Box(10.0, 5.0, 70.0, 85.0), Box(-20.0, 0.0, 60.0, 90.0), Box(50.0, 20.0, 110.0, 80.0)]
    return [
        Sample(str(i), image, box, Camera.estimate(120, 90))
        for i, (image, box) in enumerate(zip(images, boxes, strict=True))
    ]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(params: BodyParams) -> list[torch.Tensor]:
    return list(vars(params).values())


def test_a_policy_is_loaded_with_the_detector_that_it_was_trained_for(
    tiny_policy: DiffusionPolicy, tmp_path: Path
):
    assert tiny_policy.config.detector == "embedded"
    tiny_policy.config.detector = "simulated"
    tiny_policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.detector.name == "simulated"
    assert load_policy(tmp_path, detector="embedded").detector.name == "embedded"
    assert loaded.digest() == load_policy(tmp_path, detector="embedded").digest()


def test_a_checkpoint_cannot_name_models_to_download(tiny_policy: DiffusionPolicy, tmp_path: Path):
    tiny_policy.config.detector = "transformers:somebody/detector"
    tiny_policy.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"config\.json: detector is 'transformers:.*'; allowed are embedded, sim"
    ):
        load_policy(tmp_path)


def test_the_schedule_ends_in_pure_noise(tiny_policy: DiffusionPolicy):
    """Otherwise sampling would start from a distribution that training never showed (arXiv 2305.08891)."""
    alphas = tiny_policy.scheduler.alphas_cumprod
    assert float(alphas[-1]) < 1e-6
    assert float(alphas[0]) > 0.99


def test_sampling_repeats_with_its_generator_and_differs_without(
    tiny_policy: DiffusionPolicy, samples: list[Sample]
):
    features = tiny_policy.encode(samples)
    first, again, other = (tiny_policy.sample(features, 4, generator(s)) for s in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(columns(one.params), columns(two.params), strict=True))
    assert not torch.equal(first[0].params.body_pose[1], other[0].params.body_pose[1])


def test_hypothesis_zero_has_no_noise(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    features = tiny_policy.encode(samples)
    one, two = (tiny_policy.sample(features, 3, generator(seed))[0].params for seed in (1, 2))
    assert torch.equal(one.body_pose[0], two.body_pose[0])


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_every_step_s_estimate_is_reported_and_the_last_is_the_result(
    tiny_policy: DiffusionPolicy, samples: list[Sample], solver: str
):
    tiny_policy.config.solver = solver
    features = tiny_policy.encode(samples[:2])
    steps: list = []
    found = tiny_policy.sample(features, 3, generator(0), on_step=steps.append)
    assert (len(steps), len(steps[0])) == (4, 2)
    for estimate, result, plain in zip(
        steps[-1], found, tiny_policy.sample(features, 3, generator(0)), strict=True
    ):
        for columns_of_one in zip(columns(estimate.params), columns(result.params), strict=True):
            torch.testing.assert_close(*columns_of_one, atol=1e-4, rtol=1e-4)
        assert all(map(torch.equal, columns(result.params), columns(plain.params)))
    assert not torch.equal(steps[0][0].params.body_pose, steps[-1][0].params.body_pose)


def test_noise_scale_widens_the_group(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    features = tiny_policy.encode(samples[:1])
    spreads = [
        tiny_policy.sample(features, 32, generator(0), noise_scale=scale)[0].params.betas.std(dim=0).mean()
        for scale in (0.5, 1.0, 1.5)
    ]
    assert spreads[0] < spreads[1] < spreads[2]


def test_the_temperature_is_a_noise_scale(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    features, plain = tiny_policy.encode(samples[:1]), tiny_policy.digest()
    asked = tiny_policy.sample(features, 4, generator(0), noise_scale=1.2)[0].params
    tiny_policy.config.noise_temperature = 1.2
    own = tiny_policy.sample(features, 4, generator(0))[0].params
    torch.testing.assert_close(own.body_pose, asked.body_pose)
    assert tiny_policy.digest() != plain


def test_the_digest_of_the_shipped_policy():
    """Published results name the policy by it, so it must not change."""
    assert load_policy().digest() == "69791bfbf7df04bc"


OTHER_SETTINGS = {
    "noise_temperature": 1.2, "crop_scale": 1.3, "num_train_timesteps": 500,
    "num_inference_steps": 6, "solver": "dpm++", "heads": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_setting_that_changes_the_output_changes_the_digest(tiny_policy: DiffusionPolicy, name: str):
    before = tiny_policy.digest()
    current = getattr(tiny_policy.config, name)
    setattr(tiny_policy.config, name, OTHER_SETTINGS[name])
    assert tiny_policy.digest() != before
    setattr(tiny_policy.config, name, current)
    assert tiny_policy.digest() == before


def test_encoding_does_not_depend_on_the_batch(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    together = tiny_policy.encode(samples).condition
    alone = torch.cat([tiny_policy.encode([sample]).condition for sample in samples])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_to_x0_inverts_from_x0(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    features = tiny_policy.encode(samples)
    groups = [group.params for group in tiny_policy.sample(features, 4, generator(0))]
    params = BodyParams.stack(groups)
    x0 = tiny_policy.to_x0(params, features)
    back = tiny_policy.from_x0(x0, features)
    torch.testing.assert_close(back.betas, params.betas, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(back.transl, params.transl, atol=1e-3, rtol=1e-3)
    for before, after in ((params.global_orient, back.global_orient), (params.body_pose, back.body_pose)):
        # as matrices: half a turn has two vectors
        turns = roma.rotvec_to_rotmat(after), roma.rotvec_to_rotmat(before)
        torch.testing.assert_close(*turns, atol=1e-3, rtol=0)


def test_the_denoising_error_by_hand(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    """A denoiser that predicts zero and an initial estimate of N(0, 1) predict v = 0, so the error is mean(v^2) with
    v = sqrt(abar) eps - sqrt(1 - abar) x0."""
    tiny_policy.denoiser.reset_head()
    features = tiny_policy.encode(samples[:1])
    features.condition[:, -157:] = 0
    x0, noise = torch.full((1, 1, 157), 2.0), torch.full((1, 1, 157), 1.0)
    timesteps = torch.tensor([[300]])
    abar = float(tiny_policy.scheduler.alphas_cumprod[300])
    expected = (abar**0.5 * 1.0 - (1 - abar) ** 0.5 * 2.0) ** 2
    error = tiny_policy(features.condition, x0, timesteps, noise)
    assert error.shape == (1, 1, 1)
    assert float(error) == pytest.approx(expected, rel=1e-4)


def test_a_group_is_denoised_as_its_members_are(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    """The group's forward shares time and image; it must not share anything else."""
    features = tiny_policy.encode(samples)
    x0 = torch.randn(3, 5, 157, generator=generator(0))
    timesteps = torch.tensor([[10, 700], [300, 400], [0, 999]])
    noise = torch.randn(3, 2, 157, generator=generator(1))
    whole = tiny_policy(features.condition, x0, timesteps, noise)
    parts = torch.cat(
        [tiny_policy(features.condition, x0[:, g : g + 1], timesteps, noise) for g in range(5)], dim=1
    )
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_comes_back_the_same(tiny_policy: DiffusionPolicy, samples: list[Sample], tmp_path):
    tiny_policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path, detector=tiny_policy.detector)
    assert loaded.digest() == tiny_policy.digest()
    torch.testing.assert_close(loaded.encode(samples).condition, tiny_policy.encode(samples).condition)
    for policy in (loaded, tiny_policy):
        x0, noise = torch.ones(3, 2, 157), torch.ones(3, 1, 157)
        assert policy(policy.encode(samples).condition, x0, torch.full((3, 1), 500), noise).isfinite().all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_half_precision_has_another_digest(tiny_policy: DiffusionPolicy):
    whole = tiny_policy.digest()
    halved = tiny_policy.bfloat16()
    assert halved.digest() != whole
    assert halved.float().digest() != whole  # what was rounded off is gone


def test_a_compact_checkpoint_is_half_as_large_and_nearly_the_same(
    tiny_policy: DiffusionPolicy, samples: list[Sample], tmp_path
):
    tiny_policy.save_pretrained(tmp_path / "whole")
    save_compact(tiny_policy, tmp_path / "compact")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "compact")]
    assert sizes[1] < 0.62 * sizes[0]
    whole, compact = (
        load_policy(tmp_path / name, detector=tiny_policy.detector) for name in ("whole", "compact")
    )
    assert {p.dtype for p in compact.parameters()} == {torch.float32}
    assert torch.equal(compact.std, whole.std)
    torch.testing.assert_close(
        compact.encode(samples).condition, whole.encode(samples).condition, atol=5e-3, rtol=5e-3
    )


def test_a_broken_checkpoint_is_named(tiny_policy: DiffusionPolicy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_policy(tmp_path)
    tiny_policy.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_policy(tmp_path)


@pytest.mark.slow
def test_a_zero_denoiser_samples_a_gaussian_about_the_initial_estimate(
    tiny_policy: DiffusionPolicy, samples: list[Sample]
):
    """Hypothesis 0 is the initial estimate; the others have the deviation `initial_std` about it."""
    tiny_policy.denoiser.reset_head()
    tiny_policy.initial_std.fill_(0.5)
    tiny_policy.config.num_inference_steps = 50  # few steps of DDIM reduce the spread: 0.33 in 4, 0.41 in 8
    features = tiny_policy.encode(samples[:1])
    noise = torch.randn(1, 4000, 157, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 0
    x0 = tiny_policy._denoise(noise, features.condition)
    estimate = features.condition[:, -157:]
    torch.testing.assert_close(x0[:, 0], estimate, atol=1e-4, rtol=0)
    torch.testing.assert_close(x0.mean(dim=1), estimate, atol=0.05, rtol=0)
    assert float(x0.std(dim=1).mean()) == pytest.approx(0.5, rel=0.05)


def test_the_deviation_of_the_initial_estimate_is_fitted(tiny_policy: DiffusionPolicy):
    """Errors of 0.3 and 0.1 have a root mean square of sqrt((0.09 + 0.01) / 2); the bounds of INITIAL_STD apply."""
    features = torch.zeros(2, tiny_policy.feature_size)
    estimate = tiny_policy.regressor(features) * tiny_policy.std + tiny_policy.mean
    off = torch.zeros(2, 157)
    off[:, 0] = torch.tensor([0.3, 0.1])
    off[:, 1] = 9.0
    tiny_policy.fit_initial_estimate(features, estimate + off * tiny_policy.std)
    torch.testing.assert_close(tiny_policy.initial_std[:3], torch.tensor([0.05**0.5, 1.5, 0.05]))


def test_a_checkpoint_of_another_version_is_refused(tiny_policy: DiffusionPolicy, tmp_path):
    state = {name: value for name, value in tiny_policy.state_dict().items() if name != "initial_std"}
    tiny_policy.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks initial_std"):
        load_policy(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(
    tiny_policy: DiffusionPolicy, tmp_path, value
):
    tiny_policy.denoiser.head.bias[0] = value
    tiny_policy.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"the policy in .*: weights that are not finite numbers, first in denoiser\.head"
    ):
        load_policy(tmp_path)


def test_an_unknown_denoiser_is_named():
    with pytest.raises(ValueError, match="unet"):
        DiffusionPolicy(DiffusionPolicyConfig(denoiser="unet"))


def test_a_token_policy_comes_back_the_same(
    tiny_policy: DiffusionPolicy, samples: list[Sample], tmp_path: Path
):
    config = DiffusionPolicyConfig(
        width=32, depth=1, heads=4, head_width=32, denoiser="tokens", solver="ddim"
    )
    policy = DiffusionPolicy(config).requires_grad_(False).eval()
    policy.detector = tiny_policy.detector
    policy.save_pretrained(tmp_path)
    again = load_policy(tmp_path, detector=policy.detector)
    assert again.digest() == policy.digest()
    one, two = (each.sample(each.encode(samples[:1]), 3, generator(0))[0].params for each in (policy, again))
    torch.testing.assert_close(one.betas, two.betas)


def test_a_policy_without_a_detector_needs_detections(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    alone = DiffusionPolicy(tiny_policy.config)
    with pytest.raises(ValueError, match="no detector"):
        alone.encode(samples)
    alone.load_state_dict(tiny_policy.state_dict())
    given = alone.encode(samples, detect_all(tiny_policy.detector, samples)).condition
    torch.testing.assert_close(given, tiny_policy.encode(samples).condition)


def test_a_copy_shares_the_detector(tiny_policy: DiffusionPolicy):
    copied = copy.deepcopy(tiny_policy)
    assert copied.detector is tiny_policy.detector
    assert copied.digest() == tiny_policy.digest()
    copied.denoiser.head.weight.data.add_(1.0)
    assert copied.digest() != tiny_policy.digest()
