"""3D joints for detectors that read none: the initial estimate of a policy, the reader, for their detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8

from common.storage.fingerprint import digest
from hmr.body.model import Body
from hmr.detection.protocol import detect_all, detector_digest
from hmr.policy.policy import DiffusionPolicy
from hmr.types import BatchDetector, BodyParams, Box, Detection, Detector, Sample

__all__ = ["WithJoints3D"]


class WithJoints3D:
    """The detections of `detector`, with `joints_root_m` from the regression head of `reader` if they have none.

    Some of the critic's tools need 3D joints. They are evidence on a policy's hypotheses as far as the reader errs
    differently: a policy that reads for itself learns little about its own hypotheses.
    """

    def __init__(self, detector: Detector, reader: DiffusionPolicy, body: Body) -> None:
        self.detector, self.reader, self.body = detector, reader, body
        self.name = detector.name

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest(detector_digest(self.detector) or self.name, self.reader.digest(), self.body.digest())

    @property
    def is_flip_tested(self) -> bool:
        return isinstance(self.detector, BatchDetector) and self.detector.is_flip_tested

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return self.detector.find(image)

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        return self.with_joints(samples, detect_all(self.detector, samples))

    @torch.no_grad()
    def with_joints(self, samples: Sequence[Sample], detections: Sequence[Detection]) -> list[Detection]:
        """The detections of these samples, all with 3D joints."""
        if all(detection.joints_root_m is not None for detection in detections):
            return list(detections)
        estimates = self.reader.regress(self.reader.encode(samples, detections))
        joints_m = self.body.joints(BodyParams.cat([estimate.params for estimate in estimates])).cpu()
        roots_m = joints_m - joints_m[:, :1]
        return [
            detection if detection.joints_root_m is not None else replace(detection, joints_root_m=joints)
            for detection, joints in zip(detections, roots_m, strict=True)
        ]
