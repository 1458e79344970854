"""Recovered headroom: how much of what labels of the same images would gain an alignment gains without them.

    recovered = (base - aligned) / (base - ceiling)

of the mean errors over seeds and images, where the ceiling is the base policy after training on the truth of the
images that were aligned on. Reported for hypothesis 0, the averaged pose and the minimum over all samples, which a
narrower spread does not lower; the mean over hypotheses is left out, because narrowing alone lowers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from eval.benchmark.intervals import Interval, bootstrap_ratio
from eval.benchmark.protocol import Report
from eval.benchmark.tables import stack_values

__all__ = ["headroom_measures", "recovered_headroom", "recovered_share"]

Values = Float[np.ndarray, "seeds images"]

ERROR = "mpjpe_mm"


def headroom_measures(num_samples: int) -> dict[str, str]:
    """Name of each measure -> reduction in a report of M = `num_samples`."""
    return {"hyp0": "hyp0", "averaged": "averaged", f"min{num_samples}": f"min{num_samples}"}


def recovered_share(base: Values, aligned: Values, ceiling: Values) -> Interval | None:
    """Of one measure, with its 95 % interval; None if the mean of the ceiling is not below that of the base."""
    return bootstrap_ratio(base - aligned, base - ceiling)


def recovered_headroom(
    base: Sequence[Report], aligned: Sequence[Report], ceiling: Sequence[Report], num_samples: int
) -> Mapping[str, Interval | None]:
    """By measure, with its 95 % interval over seeds and images; None where the ceiling is not below the base.

    Each argument has one report per seed. Raises ValueError if they differ in their images.
    """
    found = {}
    for name, reduction in headroom_measures(num_samples).items():
        errors = (stack_values(reports, ERROR, reduction) for reports in (base, aligned, ceiling))
        found[name] = recovered_share(*errors)
    return found
