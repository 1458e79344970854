"""A simulated critic that reads the pose in space with an error, for the study of what a critic must be.

    reading_i = T_i + s e_i          T_i: the true joints relative to the pelvis
    score     = -mean_j |h_j - reading_ij|

| errors      | e_i                                                                                                |
|-------------|----------------------------------------------------------------------------------------------------|
| independent | the error of the policy's hypothesis 0 on another image, minus the mean error: of the same kind as |
|             | the policy's errors, and unrelated to its error on this image                                      |
| shared      | the error of the policy's hypothesis 0 on this image: the critic does not know what the policy does |
|             | not know                                                                                           |

The scale s is one number per critic, found by bisection on the groups of the first `CALIBRATION` images: the largest
(to 1 in 1,000) for which the mean Spearman's rho of the scores with the true errors is at least the requested SRCC; 1
is the exact reading, s = 0. An error of a reading is common to the hypotheses of an image, unlike the noise of
`rl.scorers.truth.NoisyTruthScorer`, which is drawn for each hypothesis and so averages out in training. It reads the
ground truth: `uses_truth`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agent.agreement import mean_agreement
from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.metrics.errors import about_pelvis, mpjpe_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Hypotheses, Sample, Truth
from rl.scorers.identity import hash_of

__all__ = ["NOISY_READING", "NoisyReadingScorer", "Reading", "fitted_reading"]

NOISY_READING = "noisy-reading:"
SHARED = "shared"
CALIBRATION = 64
GROUP = 20
STEPS = 20  # of the bisection
MAX_SCALE = 64.0  # times an error of the policy

TruthOf = Callable[[str], Truth]
Errors = Float[Tensor, "*batch 24 3"]  # metres, pelvis-aligned


@dataclass(frozen=True)
class Reading:
    """What `noisy-reading:SRCC[:shared]` asks for."""

    srcc: float
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.srcc <= 1:
            raise ValueError(f"the srcc of a reading must be above 0 and at most 1, not {self.srcc:g}")

    @staticmethod
    def parse(critic: str) -> Reading:
        """Raises ValueError for a name of another form."""
        text, _, kind = critic.removeprefix(NOISY_READING).partition(":")
        try:
            srcc = float(text)
        except ValueError:
            srcc = None
        if srcc is None or kind not in ("", SHARED):
            raise ValueError(
                f"{NOISY_READING.rstrip(':')} takes a number, then :{SHARED} or nothing, such as {NOISY_READING}0.6, "
                f"not {critic!r}"
            )
        return Reading(srcc, kind == SHARED)

    @property
    def name(self) -> str:
        return f"{NOISY_READING}{self.srcc:g}" + (f":{SHARED}" if self.shared else "")


class NoisyReadingScorer:
    """Minus the distance from a reading (see the module). `error_of` gives the error of an image before scaling."""

    uses_truth = True

    def __init__(
        self,
        body: Body,
        truth_of: TruthOf,
        error_of: Callable[[Sample], Errors],
        reading: Reading,
        scale: float,
    ) -> None:
        self.body, self.truth_of, self.error_of = body, truth_of, error_of
        self.reading, self.scale, self.name = reading, scale, reading.name

    def digest(self) -> str:
        return hash_of(self.name, self.scale)

    @torch.no_grad()
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        joints_m, true_m = self.body.joints(hypotheses.params), self.truth_of(sample.id).joints_cam_m
        return _scores(joints_m, true_m, self.error_of(sample), self.scale).tolist()


def fitted_reading(
    policy: DiffusionPolicy,
    body: Body,
    samples: Sequence[Sample],
    truth_of: TruthOf,
    critic: str,
    seed: int = 0,
) -> NoisyReadingScorer:
    """The scorer of a name, scaled on the policy's groups of the first images.

    Raises ValueError for a name of another form, fewer than two images, and an SRCC that no scale gives.
    """
    reading, first = Reading.parse(critic), list(samples[:CALIBRATION])
    if len(first) < 2:
        raise ValueError(f"a noisy reading needs at least 2 images, not {len(first)}")
    own = _OwnErrors(policy, body, truth_of)
    groups_m = [_group_m(policy, body, sample, seed) for sample in first]
    true_m = [truth_of(sample.id).joints_cam_m for sample in first]
    pool = torch.stack(
        [_error_m(group[0], truth) for group, truth in zip(groups_m, true_m, strict=True)]
    )  # hypothesis 0 comes first in a group
    others = _OtherErrors({sample.id: row for row, sample in enumerate(first)}, pool - pool.mean(dim=0), seed)
    error_of = own if reading.shared else others
    errors = [error_of(sample) for sample in first]
    scale = _largest_scale(lambda scale: _mean_srcc(groups_m, true_m, errors, scale), reading.srcc)
    return NoisyReadingScorer(body, truth_of, error_of, reading, scale)


@dataclass(frozen=True)
class _OwnErrors:
    """The error of the policy's hypothesis 0 on the image itself."""

    policy: DiffusionPolicy
    body: Body
    truth_of: TruthOf

    def __call__(self, sample: Sample) -> Errors:
        return _error_m(
            _group_m(self.policy, self.body, sample, 0, size=1)[0], self.truth_of(sample.id).joints_cam_m
        )


@dataclass(frozen=True)
class _OtherErrors:
    """The error on another image, which the id of the image and the seed choose from a pool."""

    rows: dict[str, int]  # of the images that are in the pool
    pool: Errors
    seed: int

    def __call__(self, sample: Sample) -> Errors:
        own = self.rows.get(sample.id)
        choice = [row for row in range(len(self.pool)) if row != own]
        generator = derive_generator(self.seed, "noisy-reading", sample.id)
        return self.pool[choice[int(torch.randint(len(choice), (), generator=generator))]]


@torch.no_grad()
def _group_m(
    policy: DiffusionPolicy, body: Body, sample: Sample, seed: int, size: int = GROUP
) -> Float[Tensor, "group 24 3"]:
    """The joints of a group as `rl.preferences.build` samples it."""
    generator = derive_generator(seed, "group", sample.id)
    return body.joints(policy.sample(policy.encode([sample]), size, generator)[0].params)


def _error_m(joints_m: Errors, true_m: Errors) -> Errors:
    return about_pelvis(joints_m) - about_pelvis(true_m)


def _scores(
    joints_m: Float[Tensor, "group 24 3"], true_m: Errors, error_m: Errors, scale: float
) -> Float[Tensor, " group"]:
    return -mpjpe_mm(joints_m, true_m + scale * error_m)


def _mean_srcc(
    groups_m: Sequence[Float[Tensor, "group 24 3"]],
    true_m: Sequence[Errors],
    errors: Sequence[Errors],
    scale: float,
) -> float:
    pairs = [
        (_scores(group, truth, error, scale).tolist(), mpjpe_mm(group, truth).tolist())
        for group, truth, error in zip(groups_m, true_m, errors, strict=True)
    ]
    srcc = mean_agreement(pairs).srcc
    return np.nan if srcc is None else srcc


def _largest_scale(srcc_at: Callable[[float], float], target: float) -> float:
    """Raises ValueError if even `MAX_SCALE` ranks better than the target."""
    if target == 1:
        return 0.0
    low, high = 0.0, MAX_SCALE
    if not srcc_at(high) < target:
        raise ValueError(
            f"no error of a reading lowers its SRCC to {target:g}; it stays at {srcc_at(high):.2f}"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if srcc_at(middle) >= target else (low, middle)
    return low
