"""The flip test: a mirrored photograph gets the mirrored output, and joints are weighted by 1 / sigma^2."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hmr.body.model import Body
from hmr.policy.encoder import NUMBERS_PER_JOINT, EncoderOutput, unpack_joints
from hmr.policy.flip import flip_test, mirror_vector
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.types import NUM_JOINTS, OTHER_SIDE, Box, Camera, Sample

FLIP = torch.tensor([-1.0, 1.0])


@pytest.fixture
def policy(body: Body) -> DiffusionPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = DiffusionPolicyConfig(
            crop_size=64, encoder_widths=[8, 12, 16], width=32, depth=1, head_width=32, mirror_look=True
        )
        policy = DiffusionPolicy(config).eval()
    generator = torch.Generator().manual_seed(4)
    mean, std = torch.randn(157, generator=generator), 0.5 + torch.rand(157, generator=generator)
    policy.fit_to(body, mean, std)
    return policy


def _sample() -> Sample:
    image = np.random.default_rng(5).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return Sample("a", image, Box(20.0, 10.0, 100.0, 110.0), Camera(200.0, 80.0, 60.0, 160, 120))


def _mirrored(sample: Sample) -> Sample:
    box, width = sample.box, sample.image.shape[1]
    return dataclasses.replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        box=Box(width - box.x1, box.y0, width - box.x0, box.y1),
    )


def test_the_mirrored_crop_gets_the_mirrored_output(policy: DiffusionPolicy) -> None:
    crops = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output, mirrored = policy.encode_crops(crops), policy.encode_crops(crops.flip(-1))
    torch.testing.assert_close(mirrored.keypoints[:, OTHER_SIDE] * FLIP, output.keypoints)
    torch.testing.assert_close(mirrored.log_sigma[:, OTHER_SIDE], output.log_sigma)
    for name in ("visible_logit", "depth_m", "depth_log_sigma"):
        torch.testing.assert_close(getattr(mirrored, name)[:, OTHER_SIDE], getattr(output, name))
    torch.testing.assert_close(mirrored.mask_logit.flip(-1), output.mask_logit)


def test_both_vectors_end_with_the_fused_joints(policy: DiffusionPolicy) -> None:
    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = flip_test(policy.encoder, crops)
    for vector, flip, order in ((output.vector, 1, slice(None)), (output.mirror_vector, FLIP, OTHER_SIDE)):
        joints = unpack_joints(vector)
        torch.testing.assert_close(joints.keypoints[:, order] * flip, output.keypoints)
        torch.testing.assert_close(joints.sigma[:, order], output.log_sigma.exp())
        torch.testing.assert_close(joints.visible[:, order], output.visible_logit.sigmoid())
        torch.testing.assert_close(joints.depth_m[:, order], output.depth_m)
        torch.testing.assert_close(joints.depth_sigma_m[:, order], output.depth_log_sigma.exp())


def test_joints_are_weighted_by_precision() -> None:
    """Deviations 0.1 and 0.2: weights 4/5 and 1/5, keypoint 4/5 * 0 + 1/5 * 0.5 = 0.1, sigma^2 4/5 * .01 + 1/5 * .04.
    Of depths, 0.3 and -0.2, the second has the smaller deviation: 1/5 * 0.3 - 4/5 * 0.2 = -0.1."""

    class TwoOutputs(torch.nn.Module):
        def forward(self, crops: torch.Tensor) -> EncoderOutput:
            place = torch.stack([torch.zeros(24), torch.full((24,), -0.5)])  # of the mirror image: +0.5
            keypoints = torch.stack([place, torch.zeros(2, 24)], dim=-1)
            log_sigma = torch.tensor([0.1, 0.2]).log()[:, None].expand(2, 24)
            vector = torch.zeros(2, 5 + NUM_JOINTS * NUMBERS_PER_JOINT)
            depth_m = torch.tensor([0.3, -0.2])[:, None].expand(2, 24)
            nothing = torch.zeros(2, 24)
            return EncoderOutput(
                vector, keypoints, log_sigma, nothing, depth_m, log_sigma.flip(0), torch.zeros(2, 4, 4)
            )

    output = flip_test(TwoOutputs(), torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(output.keypoints[0, :, 0], torch.full((24,), 0.1))
    torch.testing.assert_close(output.log_sigma.exp().square(), torch.full((1, 24), 0.016))
    torch.testing.assert_close(output.depth_m, torch.full((1, 24), -0.1))
    torch.testing.assert_close(output.depth_log_sigma.exp().square(), torch.full((1, 24), 0.016))


def test_the_initial_estimate_of_the_mirrored_photograph_is_mirrored(policy: DiffusionPolicy) -> None:
    def estimate(sample: Sample) -> torch.Tensor:
        features = policy.encode([sample])
        return features.condition[0, -157:] * policy.std + policy.mean

    one, other = estimate(_sample()), estimate(_mirrored(_sample()))
    torch.testing.assert_close(mirror_vector(other), one, atol=1e-5, rtol=1e-4)


def test_the_flip_test_is_part_of_the_digest(policy: DiffusionPolicy) -> None:
    twice = policy.digest()
    policy.config.mirror_look = False
    assert policy.digest() != twice
    assert policy.encode([_sample()]).condition.shape == (1, policy.feature_size + 157)
