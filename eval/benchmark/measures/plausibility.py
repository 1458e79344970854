"""Plausibility of hypotheses: whether a body could be so, whatever the image shows. Lower is better for all.

| key                      | value for one hypothesis                                                              |
|--------------------------|---------------------------------------------------------------------------------------|
| `joint_limit_excess_deg` | degrees beyond the joints' anatomical ranges, summed (`agent.tools.joint_limits`)     |
| `self_penetration_mm`    | depth to which parts penetrate each other, summed over pairs (`agent.tools.self_contact`) |
| `imbalance_mm`           | distance of the centre of mass from the support (`agent.tools.ground_contact`), NaN   |
|                          | where that is unknown                                                                 |
| `floating_mm`            | height of the lowest vertex above the floor, 0 below it                               |
| `sinking_mm`             | depth of the lowest vertex under the floor, 0 above it                                |

The first three are the measurements of the critique agent, here on images that it did not teach. The floor is where
the true body ends, with both bodies moved so that their pelvises coincide: an error in depth, which an image leaves
open, neither floats nor sinks. Gravity acts along the camera's +y, as in `agent.tools.ground_contact`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from agent.tools.ground_contact import GroundContact
from agent.tools.joint_limits import JointLimits
from agent.tools.self_contact import SelfContact
from agent.types import Case, Evidence
from hmr.metrics.errors import MM_PER_M, PELVIS
from hmr.types import Posed

__all__ = ["PLAUSIBILITY", "plausibility", "values_of"]

PLAUSIBILITY = (
    "joint_limit_excess_deg", "self_penetration_mm", "imbalance_mm", "floating_mm", "sinking_mm",
)  # fmt: skip
TOOLS = (JointLimits(), SelfContact(), GroundContact())


@torch.no_grad()
def plausibility(case: Case, true: Posed) -> dict[str, Float[np.ndarray, " group"]]:
    """The values of the table above for every hypothesis of a group; `true` has batch shape ()."""
    measured = [tool.measure(case) for tool in TOOLS]
    height_mm = _height_above_floor_mm(case.posed, true)
    return {item.metric: values_of(item) for item in measured} | {
        "floating_mm": height_mm.clip(min=0.0),
        "sinking_mm": (-height_mm).clip(min=0.0),
    }


def values_of(evidence: Evidence) -> Float[np.ndarray, " group"]:
    """The values of a measurement; NaN where it could not be taken."""
    return np.array([np.nan if value is None else value for value in evidence.values])


def _height_above_floor_mm(posed: Posed, true: Posed) -> Float[np.ndarray, " group"]:
    lowest_m, floor_m = (
        body.vertices_cam_m[..., 1].amax(dim=-1) - body.joints_cam_m[..., PELVIS, 1] for body in (posed, true)
    )
    return (MM_PER_M * (floor_m - lowest_m)).double().numpy()
