"""Common scale: whether every body has a plausible height, in standard deviations.

With one camera a person at the wrong distance has the wrong size: twice as far, twice as tall. A body's standing height
is computed from the lengths of its legs, spine and neck, which do not depend on the pose, times the ratio of height to
those lengths of the average body. The value is the root mean square over the people of (height - MEAN_M) / SD_M.

Heights of adults are from NCD-RisC (eLife 2016, e13410: means of countries from 1.49 to 1.83 m, both sexes). A child is
a fault here, of a size that other evidence can outweigh. A wrong focal length changes distances, but no height.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from agent.arrangement.types import ArrangementEvidence, PlacedPeople
from agent.tools.capsules import neutral_vertices
from hmr.body.model import Body
from hmr.types import JOINT_NAMES, NUM_BETAS, PARENTS

__all__ = ["CommonScale", "standing_height_m"]

MEAN_M, SD_M = 1.68, 0.1
FAULT_SD = 2.5
_SPINE = [JOINT_NAMES.index(name) for name in ("spine1", "spine2", "spine3", "neck", "head")]
_LEGS = [JOINT_NAMES.index(f"{side}_{name}") for side in ("left", "right") for name in ("knee", "ankle")]


class CommonScale:
    """Root mean square deviation of the people's heights from those of adults, in standard deviations."""

    name = "common_scale"

    def measure(self, people: PlacedPeople) -> ArrangementEvidence:
        height_m = standing_height_m(people.body, people.posed.joints_cam_m)
        size = (height_m - MEAN_M).abs() / SD_M
        order = size.argsort(descending=True).tolist()
        worst = order[0]
        sentence = "All people have the height of adults."
        if size[worst] > FAULT_SD:
            distance_m = float(people.posed.joints_cam_m[worst, 0].norm())
            sentence = f"At {distance_m:.1f} m {{{worst}}} would be {float(height_m[worst]):.2f} m tall."
        return ArrangementEvidence(
            tool=self.name,
            metric="common_scale_sd",
            unit="sd",
            value=float(size.square().mean().sqrt()),
            people=tuple(row for row in order if size[row] > FAULT_SD),
            sentence=sentence,
        )


def standing_height_m(body: Body, joints_m: Float[Tensor, "people 24 3"]) -> Float[Tensor, "people"]:
    return _bones_m(joints_m) * _height_per_bones(body)


def _bones_m(joints_m: Float[Tensor, "*batch 24 3"]) -> Float[Tensor, "*batch"]:
    """The length of spine and neck and the mean length of the legs, in metres."""
    bones_m = (joints_m[..., 1:, :] - joints_m[..., PARENTS[1:], :]).norm(dim=-1)
    spine, legs = ([joint - 1 for joint in joints] for joints in (_SPINE, _LEGS))
    return bones_m[..., spine].sum(dim=-1) + bones_m[..., legs].sum(dim=-1) / 2


@lru_cache(maxsize=4)
def _height_per_bones(body: Body) -> float:
    y_m = neutral_vertices(body)[0, :, 1]
    rest_m = body.rest_joints(torch.zeros(1, NUM_BETAS))[0]
    return float((y_m.max() - y_m.min()) / _bones_m(rest_m))
