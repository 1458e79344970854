"""The camera model against pyrender's: weak perspective inside the crop, full perspective out.

pyrender.IntrinsicsCamera gives OpenGL's projection matrix without any OpenGL: its camera looks along -z with y up, and
its clip coordinates run from -1 to 1 over the picture, the upper edge at +1.
"""

import numpy as np
import pytest
import torch

from hmr.body.model import Body
from hmr.policy.parametrization import geometry_of, params_from_vector
from hmr.types import Box, Camera

CASES = 12


def random_view(seed: int) -> tuple[Camera, Box]:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(200, 2000, 2))
    focal = float(rng.uniform(0.6, 4) * max(width, height))
    camera = Camera(
        focal, float(rng.uniform(0.3, 0.7) * width), float(rng.uniform(0.3, 0.7) * height), width, height
    )
    x, y, side = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(80, 1.2 * min(width, height))
    return camera, Box(float(x - side / 2), float(y - side / 2), float(x + side / 2), float(y + side / 2))


def through_pyrender(camera: Camera, points_cam_m: torch.Tensor) -> torch.Tensor:
    """Pixels of points in our frame (x right, y down, z forward), by pyrender's matrix."""
    pyrender = pytest.importorskip("pyrender")
    theirs = pyrender.IntrinsicsCamera(camera.focal_px, camera.focal_px, camera.cx_px, camera.cy_px)
    matrix = torch.from_numpy(theirs.get_projection_matrix(camera.width, camera.height))
    points = torch.cat(
        [points_cam_m.double() * torch.tensor([1.0, -1.0, -1.0]), torch.ones(*points_cam_m.shape[:-1], 1)],
        dim=-1,
    )
    clip = points @ matrix.T
    x, y = (clip[..., :2] / clip[..., 3:]).unbind(-1)
    return torch.stack([(x + 1) / 2 * camera.width, (1 - y) / 2 * camera.height], dim=-1)


@pytest.mark.parametrize("seed", range(CASES))
def test_a_body_of_the_vector_projects_as_pyrender_would(seed: int, body: Body):
    camera, box = random_view(seed)
    vector = torch.randn(4, 157, generator=torch.Generator().manual_seed(seed))
    vector[:, -3:] *= 0.3
    rest = body.rest_joints(vector[:, 144:154])[:, 0]
    params = params_from_vector(vector, rest, geometry_of([camera] * 4, [box] * 4))
    joints = body.joints(params)
    ours, theirs = camera.project(joints), through_pyrender(camera, joints)
    in_front = joints[..., 2] > 0.05
    assert in_front[:, 0].all()
    torch.testing.assert_close(ours[in_front].double(), theirs[in_front], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("seed", range(CASES))
def test_the_pelvis_is_where_the_crop_says(seed: int, body: Body):
    """Through pyrender's matrix, (u, v) halves of the box off its centre; a metre there spans s halves of the box."""
    camera, box = random_view(seed)
    vector = torch.randn(4, 157, generator=torch.Generator().manual_seed(seed))
    vector[:, -3:] *= 0.3
    rest = body.rest_joints(vector[:, 144:154])[:, 0]
    pelvis = params_from_vector(vector, rest, geometry_of([camera] * 4, [box] * 4)).transl + rest
    half, center = box.side / 2, torch.tensor(box.center)
    found = through_pyrender(camera, pelvis).float()
    torch.testing.assert_close((found - center) / half, vector[:, -2:], atol=1e-3, rtol=1e-3)
    a_metre_right = pelvis + torch.tensor([1.0, 0.0, 0.0])
    span = (through_pyrender(camera, a_metre_right).float() - found)[:, 0] / half
    torch.testing.assert_close(span, vector[:, -3].exp(), atol=1e-3, rtol=1e-3)
