"""The policy that most tests use."""

from __future__ import annotations

import torch

from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig


def make_tiny_policy(body: Body) -> DiffusionPolicy:
    """Untrained and small, with statistics of a plausible scale; the same in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = DiffusionPolicy(
            DiffusionPolicyConfig(
                width=32, depth=2, head_width=32, head_depth=1, num_inference_steps=4, solver="ddim"
            )
        )
        mean = torch.zeros(157)
        mean[0:144] = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]).repeat(24)
        mean[0:6] = torch.tensor(
            [1.0, 0.0, 0.0, -1.0, 0.0, 0.0]
        )  # upright before a camera whose y points down
        mean[154] = -0.1  # the person spans most of the crop
        policy.fit_to(body, mean, torch.full((157,), 0.3))
        torch.nn.init.normal_(policy.denoiser.head.weight, std=0.05)
        encoder = PersonEncoder(PersonEncoderConfig(crop_size=64, encoder_widths=(8, 12, 16)))
    policy.detector = EmbeddedDetector(encoder.requires_grad_(False).eval())
    return policy.requires_grad_(False).eval()
