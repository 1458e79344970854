"""The benchmark of guidance guides by detections of the embedded encoder."""

import numpy as np
import torch

from benchmarks.policy.guidance import variants
from hmr.policy.guidance import DetectionGuidance, GuidanceConfig
from hmr.types import Box, Camera, Sample


def test_every_variant_but_the_policy_alone_is_guided(tiny_policy):
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    sample = Sample("s", image, Box(8.0, 8.0, 80.0, 88.0), Camera.estimate(96, 96))
    features = tiny_policy.encode([sample])
    found = {name: make(sample, features) for name, make in variants(tiny_policy, GuidanceConfig()).items()}
    assert found.pop("alone") is None
    assert all(isinstance(guidance, DetectionGuidance) for guidance in found.values())
    drawn = tiny_policy.sample(features, 2, torch.Generator().manual_seed(0), guidance=found["keypoints"])
    assert len(drawn[0]) == 2
