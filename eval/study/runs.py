"""The reports of a study of alignment, every arm between its three bounds.

| row                    | what it bounds                                                                         |
|------------------------|----------------------------------------------------------------------------------------|
| base                   | no alignment                                                                           |
| the base at its spread | the base sampled with less noise until its spread equals that of the arm, interpolated |
|                        | between the two neighbouring scales: an alignment that only narrows gets no further    |
| ceiling (uses truth)   | the base fine-tuned on the truth of the very images                                    |

The headline is recovered headroom,

    recovered(e) = (e(base) - e(aligned)) / (e(base) - e(ceiling))          e: mean over seeds and test images

for hypothesis 0, the averaged pose and the minimum over M, which narrowing does not lower: 0 is the base, 1 the
ceiling. Beside it plausibility and agreement with the image (`eval.benchmark.measures`), each as a difference from the
base at the same spread, and the values of the true bodies, whose self-penetration and imbalance are not 0.

A difference is paired by image and seed, with equal noise. All 95 % intervals are percentile bootstraps over seeds and
images (`eval.benchmark.intervals`), for a single seed over images only; numerator and denominator of a ratio are
resampled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from agent.agreement import mean_agreement
from eval.benchmark.headroom import headroom_measures, recovered_share
from eval.benchmark.intervals import Interval, bootstrap_mean, bootstrap_ratio
from eval.benchmark.measures.body_measures import BODY_MEASURES, FIRST
from eval.benchmark.protocol import Report
from eval.study.arms import NARROWED, UNALIGNED, ArmId, controls

__all__ = ["FLAT", "SCALES", "StudyRuns", "Values", "at_spread"]

Values = Float[np.ndarray, "seeds images"]
SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)  # of the base's starting noise
MPJPE, PA_MPJPE = "mpjpe_mm", "pa_mpjpe_mm"
PA = "pa_"  # before the name of a reduction of MPJPE: the same of PA-MPJPE
REDUCTIONS = ("mean", "hyp0", "averaged", "min20", "pick20")  # of MPJPE, besides the minimum over M
FLAT = ("spread_visible_mm", "spread_occluded_mm", "calibration_80")


@dataclass(frozen=True)
class StudyRuns:
    """Reports in the order of seeds: one per arm and seed and of the ceiling, and for the base one per seed and scale,
    of SCALES, from 1 down to the spread of the narrowest arm."""

    arms: dict[ArmId, list[Report]]
    ceiling: list[Report]
    bases: list[list[Report]]
    made_from: dict[str, Any]  # the base policy's digest, the benchmark's, and M
    uses_truth: frozenset[ArmId] = frozenset()  # the arms that do
    truth: Report | None = None  # plausibility and agreement of the true bodies

    @property
    def errors(self) -> list[str]:
        """Names of the errors, the minimum over M among them."""
        return list(dict.fromkeys((*REDUCTIONS[:-1], self.minimum, REDUCTIONS[-1])))

    @property
    def minimum(self) -> str:
        return f"min{self.made_from['M']}"

    @property
    def pa_errors(self) -> list[str]:
        """The errors of the headline after alignment of rotation and scale."""
        return [f"{PA}{name}" for name in self.headline]

    @property
    def headline(self) -> tuple[str, ...]:
        """The errors of recovered headroom."""
        return tuple(headroom_measures(self.made_from["M"]))

    @property
    def has_narrower_bases(self) -> bool:
        """Whether the base was measured with less noise, so that there is a base at the spread of every arm."""
        return min(map(len, self.bases)) > 1

    def of(self, arm: ArmId, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.arms[arm]])

    def base(self, measure: str, scale: int = 0) -> Values:
        """At the scale of this number."""
        return np.stack([_values(scales[scale], measure) for scales in self.bases])

    def top(self, measure: str) -> Values:
        return np.stack([_values(report, measure) for report in self.ceiling])

    def true(self, measure: str) -> Values:
        """NaN where the true bodies are not measured."""
        images = len(self.bases[0][0].sample_ids)
        return np.full((1, images), np.nan) if self.truth is None else _values(self.truth, measure)[None]

    def narrowed(self, arm: ArmId, measure: str) -> Values:
        """The base at the spread of the arm, seed by seed."""
        pairs = zip(self.bases, self.arms[arm], strict=True)
        return np.stack([at_spread(scales, report.spread_mm(), measure) for scales, report in pairs])

    def agent_srcc(self) -> float | None:
        """The rank correlation of the picking agent's scores with the errors of the base's groups; None without."""
        groups = [group for scales in self.bases for group in scales[0].groups]
        return mean_agreement([(group.scores, group.errors_mm[MPJPE].tolist()) for group in groups]).srcc

    def baselines(self, arm: ArmId) -> list[ArmId]:
        """What an arm is compared with."""
        narrowed = [NARROWED] if self.has_narrower_bases else []
        return [UNALIGNED, *narrowed, *(each for each in controls() if each in self.arms and each != arm)]

    def recovered(self, arm: ArmId, measure: str) -> Interval | None:
        return self._share(self.of(arm, measure), measure)

    def recovered_at_spread(self, arm: ArmId, measure: str) -> Interval | None:
        """By the base at the spread of the arm."""
        return self._share(self.narrowed(arm, measure), measure)

    def _share(self, values: Values, measure: str) -> Interval | None:
        return recovered_share(self.base(measure), values, self.top(measure))

    def minus_base(self, arm: ArmId, measure: str) -> Interval | None:
        return bootstrap_mean(self.of(arm, measure) - self.base(measure))

    def minus_narrowed(self, arm: ArmId, measure: str) -> Interval | None:
        return bootstrap_mean(self.of(arm, measure) - self.narrowed(arm, measure))

    def percent_less(self, arm: ArmId, baseline: ArmId, measure: str) -> Interval | None:
        """100 (baseline - arm) / baseline, of the means: above 0 the error of the arm is lower."""
        if baseline == NARROWED:
            theirs = self.narrowed(arm, measure)
        else:
            theirs = self.base(measure) if baseline == UNALIGNED else self.of(baseline, measure)
        return bootstrap_ratio(100 * (theirs - self.of(arm, measure)), theirs)


def at_spread(scales: Sequence[Report], spread_mm: float, measure: str) -> Float[np.ndarray, " images"]:
    """A measure of the base at this spread: linear between the neighbouring scales, outside them the nearest one."""
    spreads = [report.spread_mm() for report in scales]  # decreasing
    position = float(np.interp(-spread_mm, [-spread for spread in spreads], range(len(spreads))))
    wider = min(int(position), len(scales) - 1)
    narrower, share = min(wider + 1, len(scales) - 1), position - wider
    return (1 - share) * _values(scales[wider], measure) + share * _values(scales[narrower], measure)


def _values(report: Report, measure: str) -> Float[np.ndarray, " images"]:
    if measure in FLAT:
        return report.values[measure]["all"]
    if measure in BODY_MEASURES:
        return report.values[measure][f"first{FIRST}"]
    errors = report.values[PA_MPJPE if measure.startswith(PA) else MPJPE]
    return errors.get(measure.removeprefix(PA), np.full(len(report.sample_ids), np.nan))
