"""Motions: the poses of a person at the times of a video's frames, and the same motion at a constant rate.

The frames of a video may be unevenly spaced (GIFs, screen and phone recordings). A GLB stores the time of each pose; a
BVH file has one frame time, so its poses are interpolated: rotations along the shortest arc, the rest linearly.
Frames are posed independently; `Motion.smoothed` removes the jitter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.types import BodyParams

__all__ = ["Motion"]

MIN_INTERVAL_S, MAX_INTERVAL_S = 1 / 120, 1.0
USUAL = (
    0.25  # intervals within this part of the median count as the usual one: containers round times to 1 ms
)
MAX_SAMPLES_PER_POSE = 100  # so that one wrong time in a container does not make the file arbitrarily large


@dataclass(frozen=True)
class Motion:
    """Poses of one person (batch shape (T,)) at increasing times. The last pose is held until `end_s`."""

    params: BodyParams
    times_s: tuple[float, ...]
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.times_s[0]

    def with_end(self) -> Motion:
        """The same motion with the last pose once more, at `end_s`."""
        params = BodyParams.cat([self.params, self.params[-1:]])
        return Motion(params, (*self.times_s, self.end_s), self.end_s)

    def smoothed(self, width_s: float) -> Motion:
        """Each pose is the mean of those around it, weighted by a Gaussian of the standard deviation `width_s`.

        Rotations have the chordal mean (Hartley et al., IJCV 2013): the rotation nearest to the mean of the matrices.
        """
        times = torch.from_numpy(self._times).float()
        weights = torch.exp(-0.5 * ((times[:, None] - times) / width_s).square())
        weights = weights / weights.sum(dim=1, keepdim=True)

        def mean(values: Float[Tensor, "frames *rest"]) -> Float[Tensor, "frames *rest"]:
            return torch.einsum("st,t...->s...", weights, values)

        def mean_rotvec(rotvecs: Float[Tensor, "frames *rest"]) -> Float[Tensor, "frames *rest"]:
            return roma.rotmat_to_rotvec(roma.special_procrustes(mean(roma.rotvec_to_rotmat(rotvecs))))

        params = self.params
        orient, pose = mean_rotvec(params.global_orient), mean_rotvec(params.body_pose)
        return replace(self, params=BodyParams(orient, pose, mean(params.betas), mean(params.transl)))

    def resampled(self) -> tuple[BodyParams, float]:
        """The poses at a constant rate from the first time on, and the rate in 1/s.

        The rate is that of the usual interval between poses, adjusted so that the first and the last pose are among
        the samples. A pose that is shown for longer than that is repeated at the end of the motion.
        """
        times, usual_s = self._times, self._usual_interval_s
        steps = round((times[-1] - times[0]) / usual_s)  # 0 if the poses are closer than the rate allows
        interval_s = (times[-1] - times[0]) / steps if steps else usual_s
        held = max(1, round((self.end_s - times[-1]) / interval_s))
        return self._at(times[0] + interval_s * np.arange(steps + held)), 1 / interval_s

    @cached_property
    def _times(self) -> Float[np.ndarray, "frames"]:
        return np.array(self.times_s, np.float64)

    @property
    def _usual_interval_s(self) -> float:
        """The mean of the intervals near the median, within bounds. Of a single pose: how long it is shown."""
        intervals = np.diff(self._times) if len(self._times) > 1 else np.array([self.duration_s])
        median = np.sort(intervals)[(len(intervals) - 1) // 2]  # one of them, also of an even number
        usual = float(intervals[abs(intervals - median) <= USUAL * median].mean())
        least = max(MIN_INTERVAL_S, self.duration_s / (MAX_SAMPLES_PER_POSE * len(self._times)))
        return max(min(usual, MAX_INTERVAL_S), least)

    def _at(self, times_s: Float[np.ndarray, "samples"]) -> BodyParams:
        before = np.clip(np.searchsorted(self._times, times_s, side="right") - 1, 0, None)
        after = np.minimum(before + 1, len(self._times) - 1)
        gaps = np.where(after > before, self._times[after] - self._times[before], math.inf)
        parts = torch.from_numpy((times_s - self._times[before]) / gaps).float()
        return _between(self.params[torch.from_numpy(before)], self.params[torch.from_numpy(after)], parts)


def _between(first: BodyParams, second: BodyParams, parts: Float[Tensor, "samples"]) -> BodyParams:
    return BodyParams(
        _slerp(first.global_orient, second.global_orient, parts[:, None]),
        _slerp(first.body_pose, second.body_pose, parts[:, None, None]),
        torch.lerp(first.betas, second.betas, parts[:, None]),
        torch.lerp(first.transl, second.transl, parts[:, None]),
    )


def _slerp(
    first: Float[Tensor, "samples *joints 3"],
    second: Float[Tensor, "samples *joints 3"],
    parts: Float[Tensor, "samples *ones"],
) -> Float[Tensor, "samples *joints 3"]:
    """Spherical interpolation; roma.rotvec_slerp interpolates every pair at every step instead."""
    turn = roma.rotvec_composition([roma.rotvec_inverse(first), second])
    return roma.rotvec_composition([first, parts * turn])
