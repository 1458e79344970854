"""The embedded detector: the heads of the policy's encoder, in pixels of the whole photograph.

`detect` returns keypoints, their deviations and the mask of one person. `find` slides windows of several sizes over the
photograph and keeps those that contain one whole person at the size of a training crop. The encoder is trained on
rendered people, so on real photographs `find` misses many; `candidates` gives the confidence of each window. Detectors
trained on photographs (`hmr.detection.transformers_detector`) need downloaded weights; without them, boxes can be given
by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.encoder import EncoderOutput
from hmr.policy.encoder_cache import EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.types import JOINT_NAMES, BatchDetector, BodyParams, Box, Camera, Detection, Detector, Sample

__all__ = ["DetectedPerson", "EmbeddedDetector", "WithJoints3D", "detect_all", "load_detector"]

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
    """With a `body`, detections include the 3D joints of the regression head's estimate.

    encoder_cache: shared with other components that encode the same samples.
    """

    name = "embedded"

    def __init__(
        self, policy: DiffusionPolicy, body: Body | None = None, encoder_cache: EncoderCache | None = None
    ) -> None:
        self.policy, self.body, self.encoder_cache = policy, body, encoder_cache or EncoderCache(policy)

    @property
    def is_flip_tested(self) -> bool:
        return self.policy.config.mirror_look

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        output = self.encoder_cache.run_encoder(samples)
        joints_root_m = [None] * len(samples) if self.body is None else self._joints_root_m(output, samples)
        rows = zip(samples, joints_root_m, strict=True)
        return [
            _detection(output, row, self.policy.crop_box(sample.box), joints)
            for row, (sample, joints) in enumerate(rows)
        ]

    @torch.no_grad()
    def _joints_root_m(self, output: EncoderOutput, samples: Sequence[Sample]) -> list[Float[Tensor, "24 3"]]:
        assert self.body is not None
        estimates = self.policy.regress(self.policy.features(output, samples))
        joints_m = self.body.joints(BodyParams.cat([estimate.params for estimate in estimates])).cpu()
        return list(joints_m - joints_m[:, :1])

    def confidence(self, sample: Sample) -> float:
        """Similarity of the sample's crop to a training crop, from 0 to 1: about 0.8 for lab scenes, 0.6 for wild ones,
        0.2 to 0.4 without a person."""
        output = self.policy.run_encoder([sample])
        return _score_window(output, 0, self.policy.crop_box(sample.box)).confidence

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Boxes of people by decreasing confidence; those below MIN_CONFIDENCE are left out."""
        return [found.box for found in self.candidates(image) if found.confidence >= MIN_CONFIDENCE]

    def candidates(self, image: UInt8[np.ndarray, "height width 3"]) -> list[DetectedPerson]:
        """Every window that does not overlap a better one, by decreasing confidence."""
        height, width = image.shape[:2]
        camera = Camera.estimate(width, height)
        boxes = _windows(width, height, self.policy.config.crop_scale)
        found: list[DetectedPerson] = []
        for start in range(0, len(boxes), BATCH):
            batch = boxes[start : start + BATCH]
            output = self.policy.run_encoder([Sample("window", image, box, camera) for box in batch])
            squares = [self.policy.crop_box(box) for box in batch]
            found += [_score_window(output, row, square) for row, square in enumerate(squares)]
        return _non_maximum_suppression(sorted(found, key=lambda item: -item.confidence))


def _detection(
    output: EncoderOutput, row: int, square: Box, joints_root_m: Float[Tensor, "24 3"] | None
) -> Detection:
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
        joints_root_m=joints_root_m,
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
        if all(candidate.box.overlap(other.box) < MAX_OVERLAP for other in kept):
            kept.append(candidate)
    return kept


def load_detector(spec: str, policy: DiffusionPolicy, body: Body | None = None) -> Detector:
    """`embedded`, `blazepose[:heavy]`, `transformers`, or `transformers:FINDER[,POSE[,SEGMENTER]]`, each a hub name or
    a local folder.

    With a `body`, detections include 3D joints, estimated by the policy. Raises ValueError for any other name and for a
    model that cannot be loaded.
    """
    kind, _, models = spec.partition(":")
    if spec == EmbeddedDetector.name:
        return EmbeddedDetector(policy, body)
    if kind == "transformers":
        from hmr.detection.transformers_detector import load_transformers_detector

        trained = load_transformers_detector(models)
        return trained if body is None else WithJoints3D(trained, EmbeddedDetector(policy, body))
    if kind == "blazepose":
        from hmr.detection.blazepose.detector import load_blazepose

        blazepose = load_blazepose(models or "full")
        return blazepose if body is None else WithJoints3D(blazepose, EmbeddedDetector(policy, body))
    raise ValueError(
        f"no detector is called {spec!r}; known are embedded, blazepose[:heavy] and "
        "transformers[:FINDER[,POSE[,SEGMENTER]]]"
    )


class WithJoints3D:
    """The detections of `detector`, with `joints_root_m` from `detector_3d`.

    A detector trained on photographs finds keypoints better than the policy's encoder, but no 3D joints. Some of the
    critic's tools need both.
    """

    def __init__(self, detector: Detector, detector_3d: BatchDetector) -> None:
        self.detector, self.detector_3d = detector, detector_3d
        self.name = detector.name

    @property
    def is_flip_tested(self) -> bool:
        return isinstance(self.detector, BatchDetector) and self.detector.is_flip_tested

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return self.detector.find(image)

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        pairs = zip(detect_all(self.detector, samples), self.detector_3d.detect_batch(samples), strict=True)
        return [replace(detection, joints_root_m=other.joints_root_m) for detection, other in pairs]


def detect_all(detector: Detector, samples: Sequence[Sample]) -> list[Detection]:
    """One detection per sample, in one batch if the detector can."""
    if isinstance(detector, BatchDetector):
        return detector.detect_batch(samples)
    return [detector.detect(sample) for sample in samples]
