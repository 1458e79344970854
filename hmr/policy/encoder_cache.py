"""A policy's encoder as several parts of the house share it: what it saw of a sample is remembered for a while.

A critique asks what the detector sees of a person and where the photograph lies among the prototypes; both are heads of
one pass. Samples are told apart by identity, not by content: nobody changes one. Several samples at once are not
remembered: the crops of a second look (`hmr.detection.test_time_augmentation`) are seen once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from hmr.policy.encoder import Seen
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample

__all__ = ["EncoderCache"]

REMEMBERED = 64  # samples: the groups that are in flight


class EncoderCache:
    """May serve several threads."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy
        self._seen: dict[int, tuple[weakref.ref[Sample], Seen]] = {}  # by id, the oldest first
        self._lock = threading.Lock()

    def see(self, samples: Sequence[Sample]) -> Seen:
        """As `DiffusionPolicy.see`."""
        if len(samples) != 1:
            return self.policy.see(samples)
        [sample] = samples
        known, seen = self._seen.get(id(sample), (None, None))
        if known is None or seen is None or known() is not sample:
            seen = self.policy.see(samples)
            with self._lock:
                self._remember(sample, seen)
        return seen

    def _remember(self, sample: Sample, seen: Seen) -> None:
        self._seen.pop(id(sample), None)
        self._seen[id(sample)] = (weakref.ref(sample), seen)
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
