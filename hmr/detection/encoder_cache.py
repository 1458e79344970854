"""Recent encoder outputs, shared by the components that need the same samples.

A critique needs the detector's output for a person and the photograph's embedding for retrieval; both come from one
pass of the encoder. Samples are compared by identity, not content, because they are never modified. Only calls with a
single sample are cached: the crops of test-time augmentation (`hmr.detection.test_time_augmentation`) are used once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from hmr.detection.encoder import EncoderOutput
from hmr.detection.person_encoder import PersonEncoder
from hmr.types import Sample

__all__ = ["EncoderCache"]

MAX_SAMPLES = 64  # enough for the groups that are processed at the same time


class EncoderCache:
    """Safe to use from several threads."""

    def __init__(self, encoder: PersonEncoder) -> None:
        self.encoder = encoder
        self._outputs: dict[int, tuple[weakref.ref[Sample], EncoderOutput]] = {}  # by id, the oldest first
        self._lock = threading.Lock()

    def run_encoder(self, samples: Sequence[Sample]) -> EncoderOutput:
        """As `PersonEncoder.run_encoder`."""
        if len(samples) != 1:
            return self.encoder.run_encoder(samples)
        [sample] = samples
        known, output = self._outputs.get(id(sample), (None, None))
        if known is None or output is None or known() is not sample:
            output = self.encoder.run_encoder(samples)
            with self._lock:
                self._store(sample, output)
        return output

    def _store(self, sample: Sample, output: EncoderOutput) -> None:
        self._outputs.pop(id(sample), None)
        self._outputs[id(sample)] = (weakref.ref(sample), output)
        while len(self._outputs) > MAX_SAMPLES:
            del self._outputs[next(iter(self._outputs))]
