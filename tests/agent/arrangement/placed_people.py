"""Two people in one photograph, for tests: `NEAR` stands 3.4 m away on the left, `FAR` 4.6 m away and partly behind.

They stand on one floor before a camera that is held level at chest height. `true_pair()` is the photograph's truth; its
detections are perfect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from agent.arrangement.measure import place
from agent.arrangement.types import PlacedPeople
from hmr.render.raster import RasterRenderer
from hmr.types import JOINT_NAMES, BodyParams, Box, Camera, Detection, Posed
from tests.agent.tools.tool_case import body, standing

CAMERA = Camera(400.0, 160.0, 160.0, 320, 320)
NEAR, FAR = 0, 1
FLOOR_M = 1.3  # under the camera


def standing_at(x_m: float, z_m: float, height_m: float = 0.0) -> BodyParams:
    """The standing body with its soles `height_m` over the floor."""
    sole_m = float(_standing_sole_m())
    return dataclasses.replace(standing(), transl=torch.tensor([x_m, FLOOR_M - height_m - sole_m, z_m]))


@cache
def _standing_sole_m() -> float:
    at_origin = dataclasses.replace(standing(), transl=torch.zeros(3))
    return float(body()(BodyParams.stack([at_origin])).vertices_cam_m[..., 1].max())


@torch.no_grad()
def posed(*people: BodyParams) -> Posed:
    return body()(BodyParams.stack(list(people)))


def true_params() -> list[BodyParams]:
    return [standing_at(-0.15, 3.4), standing_at(0.15, 4.6)]


def scaled(pair: Posed, *factors: float) -> Posed:
    """Each body moved along its viewing rays and scaled with its distance: the projection stays."""
    factor = torch.tensor(factors)[:, None, None]
    return Posed(pair.vertices_cam_m * factor, pair.joints_cam_m * factor)


@cache
def perfect_detections() -> tuple[Detection, ...]:
    pair = posed(*true_params())
    frame = RasterRenderer().render(pair.vertices_cam_m.numpy(), body().faces.numpy(), CAMERA)
    hidden = frame.mask[NEAR] & frame.mask[FAR]
    assert hidden.any(), "the two people overlap"
    square = Box(0.0, 0.0, 320.0, 320.0)
    found = []
    for row, mask in enumerate((frame.mask[NEAR], frame.mask[FAR] & ~hidden)):
        points_px = CAMERA.project(pair.joints_cam_m[row])
        x, y = points_px.long().clamp(0, 319).unbind(dim=-1)
        visible = torch.ones(24) if row == NEAR else 1.0 - torch.from_numpy(hidden)[y, x].float()
        found.append(
            Detection.from_points(
                JOINT_NAMES,
                points_px,
                torch.full((24,), 2.0),
                visible,
                mask=mask.astype(np.float32),
                mask_box=square,
            )
        )
    return tuple(found)


def placed(pair: Posed, detections: Sequence[Detection | None] | None = None) -> PlacedPeople:
    known = perfect_detections() if detections is None else detections
    return place(body(), pair, CAMERA, RasterRenderer(), known)


def true_pair() -> PlacedPeople:
    return placed(posed(*true_params()))
