"""The embedded detector: the policy encoder's own heads, turned into pixels of the whole photograph.

`look` reads keypoints, their deviation and the mask of one person. `find` slides windows of several sizes over the
photograph and keeps those in which the encoder sees a whole person that fills the window as a crop does; it was
trained on rendered people, so on real photographs it finds few and says how sure it is. Detectors trained on
photographs (`hmr.detection.transformers_detector`) need weights; without them give boxes by hand where this one refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hmr.body.model import Body
from hmr.detection.joints_3d import WithJoints3D
from hmr.policy.encoder import Seen
from hmr.policy.encoder_cache import EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BodyParams, Box, Camera, Detection, Detector, Sample

__all__ = ["DetectedPerson", "EmbeddedDetector", "load_detector", "overlap"]

WINDOW_FRACTIONS = (1.0, 0.75, 0.55, 0.4, 0.3)  # of the longer image side
STRIDE = 0.25  # of the window
BATCH = 64
MIN_CONFIDENCE = 0.7  # lab scenes reach 0.6 to 0.8 in the right window; a crowd, 0.64 in a wrong one
MAX_OVERLAP = 0.3  # intersection over union beyond which two boxes are one person


@dataclass(frozen=True)
class DetectedPerson:
    box: Box
    confidence: float  # 0 to 1


class EmbeddedDetector:
    """With a `body`, looks read joints in space as well: those of the regression head's answer. `eyes` are shared with
    whoever else looks at the same samples."""

    name = "embedded"

    def __init__(
        self, policy: DiffusionPolicy, body: Body | None = None, eyes: EncoderCache | None = None
    ) -> None:
        self.policy, self.body, self.eyes = policy, body, eyes or EncoderCache(policy)

    @property
    def is_flip_tested(self) -> bool:
        return self.policy.config.mirror_look

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        seen = self.eyes.see(samples)
        joints_root_m = [None] * len(samples) if self.body is None else self._joints_root_m(seen, samples)
        rows = zip(samples, joints_root_m, strict=True)
        return [
            _detection(seen, row, self.policy.crop_box(sample.box), joints)
            for row, (sample, joints) in enumerate(rows)
        ]

    @torch.no_grad()
    def _joints_root_m(self, seen: Seen, samples: Sequence[Sample]) -> list[Float[Tensor, "24 3"]]:
        assert self.body is not None
        guesses = self.policy.regress(self.policy.features(seen, samples))
        joints_m = self.body.joints(BodyParams.cat([guess.params for guess in guesses])).cpu()
        return list(joints_m - joints_m[:, :1])

    def confidence(self, sample: Sample) -> float:
        """From 0 to 1, how much the sample's crop looks like one that the encoder can read; lab scenes give about 0.8,
        wild ones 0.6, crops without a person 0.2 to 0.4."""
        return _judge(self.policy.see([sample]), 0, self.policy.crop_box(sample.box)).confidence

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Boxes of people, the surest first; empty where nobody is seen surely enough."""
        return [found.box for found in self.candidates(image) if found.confidence >= MIN_CONFIDENCE]

    def candidates(self, image: UInt8[np.ndarray, "height width 3"]) -> list[DetectedPerson]:
        """Every distinct window that might hold a person, the surest first."""
        height, width = image.shape[:2]
        camera = Camera.estimate(width, height)
        boxes = _windows(width, height, self.policy.config.crop_scale)
        found: list[DetectedPerson] = []
        for start in range(0, len(boxes), BATCH):
            batch = boxes[start : start + BATCH]
            seen = self.policy.see([Sample("window", image, box, camera) for box in batch])
            squares = [self.policy.crop_box(box) for box in batch]
            found += [_judge(seen, row, square) for row, square in enumerate(squares)]
        return _distinct(sorted(found, key=lambda item: -item.confidence))


def _detection(seen: Seen, row: int, square: Box, joints_root_m: Float[Tensor, "24 3"] | None) -> Detection:
    """One row in pixels of the photograph, of which the encoder saw this square."""
    half, center = square.side / 2, torch.tensor(square.center)
    return Detection(
        keypoints_px=seen.keypoints[row].cpu() * half + center,
        sigma_px=seen.log_sigma[row].cpu().exp() * half,
        confidence=seen.visible_logit[row].cpu().sigmoid(),
        mask=seen.mask_logit[row].cpu().sigmoid().numpy(),
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


def _judge(seen: Seen, row: int, square: Box) -> DetectedPerson:
    """How much a window looks like a training crop: joints seen surely, spanning the window, under the mask."""
    confidence = seen.visible_logit[row].sigmoid()
    keypoints = seen.keypoints[row]
    low, high = keypoints.min(dim=0).values, keypoints.max(dim=0).values
    span = float((high - low).max()) / 2  # of the window; a crop's person spans about 0.75 between joints
    offset = float(((high + low) / 2).abs().max())
    mask = seen.mask_logit[row].sigmoid()
    on_mask = _read(mask, keypoints).mean()
    sharp = torch.exp(-4 * seen.log_sigma[row].exp().mean())
    fit = np.exp(-((span - 0.75) ** 2) / 0.05) * np.exp(-(offset**2) / 0.1)
    confidence = float(confidence.mean() * on_mask * sharp) ** (1 / 3) * float(fit)
    half, (cx, cy) = square.side / 2, square.center
    reach = 0.08 * square.side  # skin beyond the joints
    box = Box(
        float(cx + low[0] * half - reach),
        float(cy + low[1] * half - reach),
        float(cx + high[0] * half + reach),
        float(cy + high[1] * half + reach),
    )
    return DetectedPerson(box, confidence)


def _read(mask: Float[Tensor, "side side"], points: Float[Tensor, "joints 2"]) -> Float[Tensor, "joints"]:
    side = mask.shape[0]
    columns, rows = ((points + 1) / 2 * side).long().clamp(0, side - 1).unbind(-1)
    return mask[rows, columns]


def _distinct(found: list[DetectedPerson]) -> list[DetectedPerson]:
    """Greedy non-maximum suppression over candidates sorted by confidence."""
    kept: list[DetectedPerson] = []
    for candidate in found:
        if all(overlap(candidate.box, other.box) < MAX_OVERLAP for other in kept):
            kept.append(candidate)
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(width, 0.0) * max(height, 0.0)
    areas = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0)
    return shared / (areas - shared)


def load_detector(spec: str, policy: DiffusionPolicy, body: Body | None = None) -> Detector:
    """`embedded`, `transformers`, or `transformers:FINDER[,POSE[,SEGMENTER]]`, each a hub name or a local folder.

    With a `body` joints are read in space as well, by the policy. Raises ValueError for any other name and for a model
    that cannot be loaded.
    """
    kind, _, models = spec.partition(":")
    if spec == EmbeddedDetector.name:
        return EmbeddedDetector(policy, body)
    if kind == "transformers":
        from hmr.detection.transformers_detector import load_transformers_detector

        trained = load_transformers_detector(models)
        return trained if body is None else WithJoints3D(trained, EmbeddedDetector(policy, body))
    raise ValueError(
        f"no detector is called {spec!r}; known are embedded and transformers[:FINDER[,POSE[,SEGMENTER]]]"
    )
