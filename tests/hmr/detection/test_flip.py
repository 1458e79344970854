"""The flip test: a mirrored photograph gets the mirrored output, and joints are weighted by 1 / sigma^2."""

from __future__ import annotations

import pytest
import torch

from hmr.detection.encoder import NUMBERS_PER_JOINT, EncoderOutput, unpack_joints
from hmr.detection.flip import flip_test
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig
from hmr.types import NUM_JOINTS, OTHER_SIDE

FLIP = torch.tensor([-1.0, 1.0])


@pytest.fixture
def encoder() -> PersonEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = PersonEncoderConfig(crop_size=64, encoder_widths=[8, 12, 16], flip_test=True)
        return PersonEncoder(config).eval()


def test_the_mirrored_crop_gets_the_mirrored_output(encoder: PersonEncoder) -> None:
    crops = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output, mirrored = encoder(crops), encoder(crops.flip(-1))
    torch.testing.assert_close(mirrored.keypoints[:, OTHER_SIDE] * FLIP, output.keypoints)
    torch.testing.assert_close(mirrored.log_sigma[:, OTHER_SIDE], output.log_sigma)
    for name in ("visible_logit", "depth_m", "depth_log_sigma"):
        torch.testing.assert_close(getattr(mirrored, name)[:, OTHER_SIDE], getattr(output, name))
    torch.testing.assert_close(mirrored.mask_logit.flip(-1), output.mask_logit)


def test_the_vector_ends_with_the_fused_joints(encoder: PersonEncoder) -> None:
    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = flip_test(encoder.network, crops)
    joints = unpack_joints(output.vector)
    torch.testing.assert_close(joints.keypoints, output.keypoints)
    torch.testing.assert_close(joints.sigma, output.log_sigma.exp())
    torch.testing.assert_close(joints.visible, output.visible_logit.sigmoid())
    torch.testing.assert_close(joints.depth_m, output.depth_m)
    torch.testing.assert_close(joints.depth_sigma_m, output.depth_log_sigma.exp())


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


def test_the_flip_test_is_part_of_the_digest(encoder: PersonEncoder) -> None:
    twice = encoder.digest()
    encoder.config.flip_test = False
    assert encoder.digest() != twice
