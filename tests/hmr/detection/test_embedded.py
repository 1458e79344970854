"""The embedded detector: crop units to pixels of the photograph, batches, and non-maximum suppression."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hmr.detection.embedded import (
    MAX_OVERLAP,
    DetectedPerson,
    EmbeddedDetector,
    _non_maximum_suppression,
)
from hmr.detection.encoder import EncoderOutput
from hmr.detection.person_encoder import PersonEncoder
from hmr.types import BatchDetector, Box, Camera, Sample

SAMPLE = Sample("a", np.zeros((100, 80, 3), np.uint8), Box(20.0, 10.0, 60.0, 90.0), Camera.estimate(80, 100))


def test_crop_units_become_pixels(tiny_encoder: PersonEncoder, monkeypatch: pytest.MonkeyPatch):
    # the box's side is 80, the crop's 80 * 1.2 = 96 about (40, 50): u = 0.5 lies 0.5 * 48 = 24 px right of 40
    output = EncoderOutput(
        vector=torch.zeros(1, 4),
        keypoints=torch.tensor([0.5, -1.0]).expand(1, 24, 2),
        log_sigma=torch.full((1, 24), -1.0),
        visible_logit=torch.zeros(1, 24),
        depth_m=torch.zeros(1, 24),
        depth_log_sigma=torch.zeros(1, 24),
        mask_logit=torch.zeros(1, 8, 8),
    )
    monkeypatch.setattr(tiny_encoder, "run_encoder", lambda samples: output)
    found = EmbeddedDetector(tiny_encoder).detect(SAMPLE)
    torch.testing.assert_close(found.keypoints_px[0], torch.tensor([64.0, 2.0]))
    torch.testing.assert_close(found.sigma_px[0], torch.tensor(48 * np.exp(-1.0), dtype=torch.float32))
    assert found.visibility[0] == 0.5
    assert (found.mask == 0.5).all()
    assert found.mask_box == Box(-8.0, 2.0, 88.0, 98.0)


@pytest.mark.parametrize("twice", [False, True])
def test_a_batch_equals_single_detections(
    twice: bool, tiny_encoder: PersonEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny_encoder.config, "flip_test", twice)
    detector = EmbeddedDetector(tiny_encoder)
    assert isinstance(detector, BatchDetector)
    assert detector.is_flip_tested is twice
    image = np.random.default_rng(0).integers(0, 255, (100, 80, 3), dtype=np.uint8)
    samples = [replace(SAMPLE, image=image, box=Box(x, 10.0, x + 40, 90.0)) for x in (10.0, 20.0, 35.0)]
    for seen, alone in zip(detector.detect_batch(samples), map(detector.detect, samples), strict=True):
        torch.testing.assert_close(seen.keypoints_px, alone.keypoints_px, rtol=0, atol=1e-3)
        np.testing.assert_allclose(seen.mask, alone.mask, atol=1e-4)
        assert seen.mask_box == alone.mask_box


def test_one_person_is_found_once():
    # the second box shares 90 * 90 of 2 * 100 * 100 - 90 * 90 = 11900: 0.68; the third touches nothing
    boxes = [Box(0.0, 0.0, 100.0, 100.0), Box(10.0, 10.0, 110.0, 110.0), Box(200.0, 0.0, 300.0, 100.0)]
    assert boxes[0].iou(boxes[1]) == pytest.approx(8100 / 11900)
    assert boxes[0].iou(boxes[2]) == 0 < MAX_OVERLAP
    kept = _non_maximum_suppression(
        [DetectedPerson(box, confidence) for box, confidence in zip(boxes, (0.9, 0.8, 0.7), strict=True)]
    )
    assert [found.box for found in kept] == [boxes[0], boxes[2]]


def test_no_person_is_found_in_noise(tiny_encoder: PersonEncoder):
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    detector = EmbeddedDetector(tiny_encoder)
    assert detector.find(noise) == []
    assert all(0 <= found.confidence <= 1 for found in detector.candidates(noise))
