"""Tests of the rasteriser alone; tests/contracts/test_renderer.py covers what all renderers have in common."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import trimesh

from hmr.render import gl, kernels, load_renderer
from hmr.render.raster import RasterRenderer, interpolate, vertex_normals
from hmr.types import Camera

CAMERA = Camera(focal_px=16.0, cx_px=8.0, cy_px=8.0, width=16, height=16)
QUAD = np.array(
    [[-1, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]], np.float32
)  # fills the image of CAMERA exactly
SPLIT = np.array([[0, 1, 2], [0, 2, 3]])


def _render(vertices, faces, camera=CAMERA, threads=1):
    return RasterRenderer(threads).render(np.asarray(vertices, np.float32), np.asarray(faces), camera)


def test_pixels_on_a_shared_edge_belong_to_one_triangle():
    # The diagonal runs through sixteen pixel centres; it is the left edge of the first triangle.
    first, second = (_render(QUAD[None], SPLIT[k : k + 1]).mask[0] for k in (0, 1))
    assert (first.astype(int) + second == 1).all()
    assert np.diag(first).all()
    assert _render(QUAD[None, ::-1], SPLIT).mask.all()  # the other winding


def test_depth_is_perspective_correct_on_a_slanted_plane():
    # The plane z = 4 + x / 2, seen along the ray (a, 0, 1) z, has z = 4 + a z / 2, so z = 8 / (2 - a).
    plane = QUAD * 4
    plane[:, 2] = 4 + plane[:, 0] / 2
    frame = _render(plane[None], SPLIT)
    slopes = (np.arange(16) + 0.5 - 8) / 16
    expected = np.broadcast_to(8 / (2 - slopes), (16, 16))
    np.testing.assert_allclose(
        frame.depth_m[0][frame.mask[0]], expected[frame.mask[0]], rtol=1e-4
    )  # 1/512 pixel
    assert frame.mask.mean() > 0.7


def test_interpolated_positions_are_the_visible_points():
    meshes = [trimesh.creation.icosphere().apply_translation((shift, 0, 3)) for shift in (0.0, 0.2)]
    vertices, faces = np.stack([np.asarray(mesh.vertices) for mesh in meshes]), np.asarray(meshes[0].faces)
    camera = Camera(60.0, 30.0, 33.0, 64, 72)
    frame = _render(vertices, faces, camera)
    points = interpolate(frame, vertices, faces, vertices, camera)
    rows, columns = np.mgrid[:72, :64] + 0.5
    rays = np.stack([(columns - 30) / 60, (rows - 33) / 60, np.ones((72, 64))], axis=-1)
    np.testing.assert_allclose(points, frame.depth_m[..., None] * rays, atol=2e-3)
    shared = interpolate(frame, vertices, faces, vertices[:1], camera)
    np.testing.assert_array_equal(shared[0], points[0])
    # the second mesh is the first moved by 0.2 along x, and so are the rest positions at its pixels
    np.testing.assert_allclose(shared[1] + [0.2, 0, 0] * frame.mask[1, ..., None], points[1], atol=1e-5)


def test_a_triangle_that_reaches_behind_the_near_plane_is_dropped():
    reaching = np.array([[[-1, -1, 2], [1, -1, 2], [0, 1, kernels.NEAR_M / 2]]])
    assert not _render(reaching, [[0, 1, 2]]).mask.any()


def test_a_nan_vertex_drops_only_its_own_faces():
    broken = QUAD.copy()
    broken[3] = np.nan
    frame = _render(broken[None], SPLIT)
    assert set(np.unique(frame.face_ids)) == {-1, 0}
    assert np.isfinite(frame.normals_cam).all()


def test_faces_that_name_missing_vertices_are_refused():
    with pytest.raises(ValueError, match="0 to 9, but a mesh has 4"):
        _render(QUAD[None], [[0, 1, 9]])


def test_threads_and_concurrent_callers_give_the_same_result():
    ball = trimesh.creation.icosphere()
    vertices, faces = np.asarray(ball.vertices)[None] + [[[0, 0, 2.0 + k]] for k in range(6)], ball.faces
    expected = _render(vertices, faces).depth_m
    with ThreadPoolExecutor(4) as pool:
        for frame in pool.map(lambda _: _render(vertices, faces, threads=3), range(8)):
            np.testing.assert_array_equal(frame.depth_m, expected)


def test_vertex_normals_are_area_weighted_and_zero_without_faces():
    # Faces of doubled areas 1 (normal +z) and 2 (normal +x) meet at the origin: (2, 0, 1) / sqrt(5).
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2], [5, 5, 5]], np.float32)
    normals = vertex_normals(vertices, np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(normals[0], np.array([2, 0, 1]) / 5**0.5, atol=1e-6)
    np.testing.assert_array_equal(normals[4], 0)


def test_an_unknown_renderer_is_refused():
    with pytest.raises(ValueError, match="'mitsuba'; available are raster, pyrender"):
        load_renderer("mitsuba")


def test_opengl_is_imported_within_functions_only():
    module = ast.parse(Path(gl.__file__).read_text())
    plain = {alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names}
    members = {str(node.module).split(".")[0] for node in module.body if isinstance(node, ast.ImportFrom)}
    assert {"subprocess", "numpy", "hmr"} <= plain | members
    assert not {"pyrender", "OpenGL"} & (plain | members)


def test_pyrender_without_opengl_lists_the_platforms_tried(monkeypatch):
    monkeypatch.setenv("PYOPENGL_PLATFORM", "abacus")
    monkeypatch.setattr(gl, "PROBE", "import sys; sys.exit('no such platform')")
    gl._working_platform.cache_clear()
    try:
        assert gl.available() == (False, "abacus: no such platform")
        with pytest.raises(gl.OpenGLUnavailable, match="abacus: no such platform"):
            load_renderer("pyrender")
    finally:
        gl._working_platform.cache_clear()
