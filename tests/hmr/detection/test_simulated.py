"""The detector that reports what is stored with a scene."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.detection.loading import load_detector
from hmr.detection.protocol import detect_all, detector_digest
from hmr.detection.simulated import SimulatedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_samples
from hmr.types import BatchDetector, Box, Camera, Sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return list(read_samples(draw_split("street-align", tmp_path_factory.mktemp("scenes"), 2)))


def test_it_is_a_detector_by_name():
    detector = load_detector("simulated")
    assert isinstance(detector, BatchDetector)
    assert detector.name == "simulated"
    assert len(detector_digest(detector) or "") == 16


def test_it_reports_what_is_stored(samples: list[Sample]):
    found = detect_all(SimulatedDetector(), samples)
    assert [one is sample.detection for one, sample in zip(found, samples, strict=True)] == [True, True]


def test_it_finds_nobody_in_pixels(samples: list[Sample]):
    assert SimulatedDetector().find(samples[0].image) == []


def test_an_image_without_a_detection_is_named():
    sample = Sample("a1", np.zeros((8, 8, 3), np.uint8), Box(0.0, 0.0, 8.0, 8.0), Camera.estimate(8, 8))
    with pytest.raises(ValueError, match="image a1 holds no detection of the simulated detector"):
        SimulatedDetector().detect(sample)


def test_a_policy_reads_it_without_an_encoder(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    tiny_policy.detector = SimulatedDetector()
    features = tiny_policy.encode(samples)
    assert features.condition.isfinite().all()
    stored = tiny_policy.encode(samples, [sample.detection for sample in samples if sample.detection])
    assert torch.equal(features.condition, stored.condition)


def test_a_set_without_truth_holds_detections(tmp_path: Path):
    folder = draw_split("street-align", tmp_path, 1)
    assert not (folder / "truth.parquet").exists()
    assert read_samples(folder)[0].detection is not None
