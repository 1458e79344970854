"""The simulated detector of the benchmark reports the detection that is stored with a scene of `studio` or `street`.

Its errors were drawn with the scene (`hmr.synthetic.detector_noise`), so no truth is needed to read them, and a policy
of detections has the same detector in both sets: what differs between them is what they show. A critic that looks at
the picture (`embedded`, or a vision-language model) has mistakes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from common.storage.fingerprint import digest
from hmr.types import Box, Detection, Sample

__all__ = ["SimulatedDetector"]


class SimulatedDetector:
    name = "simulated"
    is_flip_tested = True  # nothing is known of a mirror image, so nobody should ask

    def digest(self) -> str:
        return digest(self.name)

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Nobody: what is stored belongs to a sample, not to its pixels."""
        return []

    def detect(self, sample: Sample) -> Detection:
        """Raises ValueError for a sample without a stored detection."""
        if sample.detection is None:
            raise ValueError(
                f"image {sample.id} holds no detection of the simulated detector; only scenes of studio and street do "
                "(--split street-test), and --detector embedded reads any rendered scene"
            )
        return sample.detection

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        return [self.detect(sample) for sample in samples]
