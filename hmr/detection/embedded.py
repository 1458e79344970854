"""The embedded detector: the output of a person encoder, in pixels of the whole photograph.

`detect` returns keypoints, their deviations and the mask of one person. `find` slides windows of several sizes over the
photograph and keeps those that contain one whole person at the size of a training crop. The encoder is trained on
rendered people, so on real photographs `find` misses many; `candidates` gives the confidence of each window. Detectors
trained on photographs (`hmr.detection.transformers_detector`) need downloaded weights; without them, boxes can be given
by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hmr.detection.encoder import EncoderOutput
from hmr.detection.encoder_cache import EncoderCache
from hmr.detection.person_encoder import PersonEncoder
from hmr.types import JOINT_NAMES, Box, Camera, Detection, Sample

__all__ = ["DetectedPerson", "EmbeddedDetector"]

WINDOW_FRACTIONS = (1.0, 0.75, 0.55, 0.4, 0.3)  # of the longer image side
STRIDE = 0.25  # of the window
BATCH = 64
MIN_CONFIDENCE = 0.7  # lab scenes reach 0.6 to 0.8 in a correct window, a crowd 0.64 in a wrong one
MAX_OVERLAP = 0.3  # intersection over union above which two boxes are the same person


@dataclass(frozen=True)
class DetectedPerson:
    box: Box
    confidence: float  # 0 to 1


class EmbeddedDetector:
    """encoder_cache: shared with other components that encode the same samples."""

    name = "embedded"

    def __init__(self, encoder: PersonEncoder, encoder_cache: EncoderCache | None = None) -> None:
        self.encoder, self.encoder_cache = encoder, encoder_cache or EncoderCache(encoder)

    @property
    def is_flip_tested(self) -> bool:
        return self.encoder.config.flip_test

    def digest(self) -> str:
        return self.encoder.digest()

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        output = self.encoder_cache.run_encoder(samples)
        return [
            _detection(output, row, self.encoder.crop_box(sample.box)) for row, sample in enumerate(samples)
        ]

    def detection(self, output: EncoderOutput, sample: Sample) -> Detection:
        """What `detect` returns for a sample whose encoder output, of one row, is known."""
        return _detection(output, 0, self.encoder.crop_box(sample.box))

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Boxes of people by decreasing confidence; those below MIN_CONFIDENCE are left out."""
        return [found.box for found in self.candidates(image) if found.confidence >= MIN_CONFIDENCE]

    def candidates(self, image: UInt8[np.ndarray, "height width 3"]) -> list[DetectedPerson]:
        """Every window that does not overlap a better one, by decreasing confidence."""
        height, width = image.shape[:2]
        camera = Camera.estimate(width, height)
        boxes = _windows(width, height, self.encoder.config.crop_scale)
        found: list[DetectedPerson] = []
        for start in range(0, len(boxes), BATCH):
            batch = boxes[start : start + BATCH]
            output = self.encoder.run_encoder([Sample("window", image, box, camera) for box in batch])
            squares = [self.encoder.crop_box(box) for box in batch]
            found += [_score_window(output, row, square) for row, square in enumerate(squares)]
        return _non_maximum_suppression(sorted(found, key=lambda item: -item.confidence))


def _detection(output: EncoderOutput, row: int, square: Box) -> Detection:
    """One row of the output in pixels of the photograph; `square` is the encoder's crop."""
    half, center = square.side / 2, torch.tensor(square.center)
    return Detection.from_points(
        JOINT_NAMES,
        output.keypoints[row].cpu() * half + center,
        output.log_sigma[row].cpu().exp() * half,
        output.visible_logit[row].cpu().sigmoid(),
        output.depth_m[row],
        output.depth_log_sigma[row].exp(),
        mask=output.mask_logit[row].cpu().sigmoid().numpy(),
        mask_box=square,
        confidence=_score_window(output, row, square).confidence,
    )


def _windows(width: int, height: int, crop_scale: float) -> list[Box]:
    """Squares whose crops tile the image at each size."""
    boxes = []
    for fraction in WINDOW_FRACTIONS:
        side = fraction * max(width, height)
        step = STRIDE * side
        for y in np.arange(0, max(height - side, 0) + step, step):
            for x in np.arange(0, max(width - side, 0) + step, step):
                boxes.append(Box(x, y, x + side, y + side).square(1 / crop_scale))
    return boxes


def _score_window(output: EncoderOutput, row: int, square: Box) -> DetectedPerson:
    """Confidence of a window: joints visible with a small deviation, spanning the window, on the mask."""
    visible = output.visible_logit[row].sigmoid()
    keypoints = output.keypoints[row]
    low, high = keypoints.min(dim=0).values, keypoints.max(dim=0).values
    span = float((high - low).max()) / 2  # of the window; the joints of a training crop span about 0.75
    offset = float(((high + low) / 2).abs().max())
    mask = output.mask_logit[row].sigmoid()
    on_mask = _sample_mask(mask, keypoints).mean()
    sharp = torch.exp(-4 * output.log_sigma[row].exp().mean())
    fit = np.exp(-((span - 0.75) ** 2) / 0.05) * np.exp(-(offset**2) / 0.1)
    confidence = float(visible.mean() * on_mask * sharp) ** (1 / 3) * float(fit)
    half, (cx, cy) = square.side / 2, square.center
    margin = 0.08 * square.side  # skin beyond the joints
    box = Box(
        float(cx + low[0] * half - margin),
        float(cy + low[1] * half - margin),
        float(cx + high[0] * half + margin),
        float(cy + high[1] * half + margin),
    )
    return DetectedPerson(box, confidence)


def _sample_mask(
    mask: Float[Tensor, "side side"], points: Float[Tensor, "joints 2"]
) -> Float[Tensor, "joints"]:
    side = mask.shape[0]
    columns, rows = ((points + 1) / 2 * side).long().clamp(0, side - 1).unbind(-1)
    return mask[rows, columns]


def _non_maximum_suppression(found: list[DetectedPerson]) -> list[DetectedPerson]:
    """Greedy; `found` is sorted by confidence."""
    kept: list[DetectedPerson] = []
    for candidate in found:
        if all(candidate.box.iou(other.box) < MAX_OVERLAP for other in kept):
            kept.append(candidate)
    return kept
