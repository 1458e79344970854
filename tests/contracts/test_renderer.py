"""What every renderer must do: against the geometry itself, and against each other.

A new renderer adds its name to `hmr.render.RENDERERS`.
"""

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import binary_erosion

from hmr.body.model import load_body
from hmr.render import RENDERERS, gl, load_renderer
from hmr.types import BodyParams, Camera, Frame

CAMERA = Camera(focal_px=180.0, cx_px=70.0, cy_px=52.0, width=128, height=96)


def _load(name):
    if name == "pyrender":
        works, reason = gl.available()
        if not works:
            pytest.skip(f"no OpenGL here: {reason}")
    return load_renderer(name)


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request):
    return _load(request.param)


def _batch(*meshes):
    """Meshes of one topology as a batch."""
    return np.stack([np.asarray(mesh.vertices, np.float32) for mesh in meshes]), np.asarray(meshes[0].faces)


def _moved(mesh, *offset_m):
    return mesh.copy().apply_translation(offset_m)


def _rays(camera):
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    x, y = (columns - camera.cx_px) / camera.focal_px, (rows - camera.cy_px) / camera.focal_px
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def _degrees_between(first, second):
    return np.degrees(np.arccos(np.clip((first * second).sum(-1), -1, 1)))


def test_a_sphere_is_where_its_equation_says(renderer):
    centre, radius = np.array([0.1, -0.15, 2.5]), 0.5
    sphere = _moved(trimesh.creation.icosphere(subdivisions=5, radius=radius), *centre)
    frame = renderer.render(*_batch(sphere), CAMERA)
    # |t ray - centre|^2 = r^2 is a t^2 - 2 b t + c = 0 with these a, b, c; t is the depth since ray_z = 1
    rays = _rays(CAMERA)
    a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - radius**2
    disc = b**2 - a * c
    hit = disc > 0
    depth_m = (b - np.sqrt(np.maximum(disc, 0))) / a
    mask = frame.mask[0]
    assert (mask & hit).sum() / (mask | hit).sum() > 0.99
    inside = binary_erosion(mask & hit, iterations=2)
    np.testing.assert_allclose(frame.depth_m[0][inside], depth_m[inside], atol=1e-3)
    normals = (depth_m[..., None] * rays - centre) / radius
    assert _degrees_between(frame.normals_cam[0], normals)[inside].max() < 1.5


def test_a_speck_lands_on_its_projected_pixel(renderer):
    generator = np.random.default_rng(0)
    columns, rows = generator.integers(0, CAMERA.width, 8), generator.integers(0, CAMERA.height, 8)
    for column, row, depth_m in zip(columns, rows, generator.uniform(0.5, 9.0, 8), strict=True):
        centre = np.array([column + 0.5 - CAMERA.cx_px, row + 0.5 - CAMERA.cy_px, CAMERA.focal_px])
        corners_px = centre + np.array([[-0.4, -0.4, 0], [0.4, -0.4, 0], [0, 0.4, 0]])
        speck_m = (corners_px * depth_m / CAMERA.focal_px).astype(np.float32)
        frame = renderer.render(speck_m[None], np.array([[0, 1, 2]]), CAMERA)
        u, v = CAMERA.project(torch.from_numpy(speck_m).mean(0)).tolist()
        assert np.argwhere(frame.mask[0]).tolist() == [[int(v), int(u)]] == [[row, column]]
        assert frame.depth_m[0, row, column] == pytest.approx(depth_m, rel=1e-3)


def test_a_sheet_over_the_whole_picture_has_no_cracks(renderer):
    columns, rows = np.meshgrid(np.linspace(-1, 1, 14), np.linspace(-1, 1, 11))
    index = np.arange(columns.size).reshape(columns.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    sheet = np.stack([columns, rows, 2 + 0.3 * columns], axis=-1).reshape(1, -1, 3).astype(np.float32)
    assert renderer.render(sheet, faces, CAMERA).mask.all()


@pytest.mark.parametrize("offset_m", [(0, 0, -3), (9, 0, 3), (0, -9, 3)], ids=["behind", "right", "above"])
def test_what_is_not_in_view_leaves_the_frame_empty(renderer, offset_m):
    frame = renderer.render(*_batch(_moved(trimesh.creation.box(), *offset_m)), CAMERA)
    assert not frame.mask.any()
    assert (frame.face_ids == -1).all()
    assert not frame.depth_m.any()
    assert not frame.normals_cam.any()


@pytest.mark.parametrize("near_first", [True, False])
def test_the_nearer_body_hides_the_farther(renderer, near_first):
    near = _moved(trimesh.creation.icosphere(subdivisions=2, radius=0.3), 0, 0, 2)
    far = _moved(trimesh.creation.icosphere(subdivisions=2, radius=0.6), 0, 0, 4)
    pair = [near, far] if near_first else [far, near]
    frame = renderer.render(*_batch(trimesh.util.concatenate(pair)), CAMERA)
    alone = renderer.render(*_batch(near), CAMERA)
    belongs_to_first = frame.face_ids[0] < len(near.faces)
    assert (belongs_to_first[alone.mask[0]] == near_first).all()
    np.testing.assert_allclose(frame.depth_m[alone.mask], alone.depth_m[alone.mask], atol=1e-4)


def test_a_batch_is_its_meshes_one_by_one(renderer):
    vertices, faces = _batch(*(_moved(trimesh.creation.icosphere(), shift, 0, 3) for shift in (0, 0.4, -1)))
    together = renderer.render(vertices, faces, CAMERA)
    for index in range(len(together)):
        alone = renderer.render(vertices[index : index + 1], faces, CAMERA)
        for field in vars(together):
            np.testing.assert_array_equal(getattr(together, field)[index], getattr(alone, field)[0])


def test_an_empty_batch_gives_an_empty_frame(renderer):
    frame = renderer.render(np.zeros((0, 8, 3), np.float32), np.asarray(trimesh.creation.box().faces), CAMERA)
    assert frame.mask.shape == (0, CAMERA.height, CAMERA.width)


def test_normals_are_unit_and_face_the_camera_from_either_side_of_a_surface(renderer):
    box = _moved(trimesh.creation.box(extents=(1, 1, 1)), 0.2, 0.1, 2)
    for faces in (box.faces, box.faces[:, ::-1]):  # outward, and inside out
        frame = renderer.render(np.asarray(box.vertices, np.float32)[None], np.asarray(faces), CAMERA)
        seen = frame.normals_cam[frame.mask]
        np.testing.assert_allclose(np.linalg.norm(seen, axis=-1), 1, atol=1e-5)
        assert ((seen * _rays(CAMERA)[frame.mask[0]]).sum(-1) <= 1e-5).all()


def _two_parts():
    box = trimesh.creation.box(extents=(0.5, 0.8, 0.4)).subdivide().subdivide()
    ball = _moved(trimesh.creation.icosphere(subdivisions=3, radius=0.3), 0.25, -0.2, -0.3)
    turn = trimesh.transformations.rotation_matrix(0.7, [0.3, 1, 0.2])
    return _batch(_moved(trimesh.util.concatenate([box, ball]).apply_transform(turn), 0, 0, 2.5))


def _body():
    body, zeros = load_body(), torch.zeros
    upside = torch.tensor([[torch.pi, 0.0, 0.0]])
    params = BodyParams(upside, 0.1 + zeros(1, 23, 3), zeros(1, 10), torch.tensor([[0.0, 0.2, 4.5]]))
    return body(params).vertices_cam_m.numpy(), body.faces.numpy()


@pytest.mark.parametrize("scene", [_two_parts, _body])
@pytest.mark.parametrize("name", [name for name in RENDERERS if name != "raster"])
def test_agrees_with_the_rasteriser(name, scene):
    vertices, faces = scene()
    theirs: Frame = _load(name).render(vertices, faces, CAMERA)
    ours: Frame = load_renderer("raster").render(vertices, faces, CAMERA)
    both, either = theirs.mask & ours.mask, theirs.mask | ours.mask
    assert both.sum() / either.sum() > 0.995
    inside = np.asarray(binary_erosion(both, np.ones((1, 3, 3))), bool)
    depth_errors_mm = 1e3 * np.abs(theirs.depth_m - ours.depth_m)[inside]
    assert np.quantile(depth_errors_mm, 0.99) < 2
    assert np.quantile(_degrees_between(theirs.normals_cam, ours.normals_cam)[inside], 0.99) < 2
    assert (theirs.face_ids == ours.face_ids)[inside].mean() > 0.99
