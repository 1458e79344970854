"""The inner loops of the rasteriser, compiled by numba. Use them through `raster.py`.

There are two passes. The first computes the nearest inverse depth and the face ids with edge functions (Pineda, "A
parallel algorithm for polygon rasterization", SIGGRAPH 1988) on vertices snapped to 1/256 pixel. On that grid the edge
functions are exact in float64, so with the top-left rule two triangles that share an edge neither leave a gap nor cover
a pixel twice. The second processes visible pixels only: barycentric weights from the ray through the pixel's centre
(Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", Graphics Hardware 1997) interpolate
normals and other vertex attributes.

    inverse depth is affine on the screen      1/z = (e_a/z_a + e_b/z_b + e_c/z_c) / area
    perspective-correct weight of corner a     w_a = ray . (b x c), over the sum of all three

The caller checks every array; bounds are not checked here. Vertices are float32 [vertices, 3], faces
int32 [faces, 3], images [height, width, ...]; (focal, cx, cy) is the camera, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import no_type_check

import numpy as np
from numba import njit

__all__ = [
    "NEAR_M",
    "compiled",
    "draw",
    "interpolate_pixels",
    "orient_pixels",
    "smooth_normals",
    "smooth_pixels",
]

NEAR_M = 0.05
SUBPIXELS = 256.0
SMALLEST_EDGE = 0.5 / SUBPIXELS**2  # less than any positive value of an edge function on the grid

Vector = tuple[float, float, float]


def compiled(function: Callable) -> Callable:
    """Compiles a function with numba. It releases the GIL, so that threads can share a batch. The machine code is
    cached on disk if numba finds a writable folder, and otherwise compiled in each process.

    Use it above `typing.no_type_check`, which keeps jaxtyping's import hook (in tests) from wrapping the function.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)


@compiled
@no_type_check
def _row(points: np.ndarray, index: int) -> Vector:
    """A row as three numbers, which numba keeps in registers; a view of the array would be slower."""
    return np.float64(points[index, 0]), np.float64(points[index, 1]), np.float64(points[index, 2])


@compiled
@no_type_check
def _dot(p: Vector, q: Vector) -> float:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@compiled
@no_type_check
def _cross(p: Vector, q: Vector) -> Vector:
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@compiled
@no_type_check
def _face_normal(a: Vector, b: Vector, c: Vector) -> Vector:
    """Points outwards if the corners are counter-clockwise seen from outside; its length is twice the face's area."""
    return _cross((b[0] - a[0], b[1] - a[1], b[2] - a[2]), (c[0] - a[0], c[1] - a[1], c[2] - a[2]))


@compiled
@no_type_check
def _corners(vertices: np.ndarray, faces: np.ndarray, face: int) -> tuple[Vector, Vector, Vector]:
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    return _row(vertices, a), _row(vertices, b), _row(vertices, c)


@compiled
@no_type_check
def _project(vertices: np.ndarray, focal: float, cx: float, cy: float) -> np.ndarray:
    """Columns u, v (pixels, snapped) and 1/z; 1/z is 0 for a vertex nearer than the near plane or not finite."""
    points = np.zeros((len(vertices), 3))
    for index in range(len(vertices)):
        x, y, z = _row(vertices, index)
        if not z > NEAR_M:
            continue
        u = np.rint((focal * x / z + cx) * SUBPIXELS) / SUBPIXELS
        v = np.rint((focal * y / z + cy) * SUBPIXELS) / SUBPIXELS
        if np.isfinite(u + v):
            points[index, 0], points[index, 1], points[index, 2] = u, v, 1.0 / z
    return points


@compiled
@no_type_check
def _centres_between(low: float, high: float, count: int) -> tuple[int, int]:
    """First and last index of the pixels, among `count`, whose centres are in [low, high]."""
    first = math.ceil(min(max(low - 0.5, 0.0), count + 0.0))
    last = math.floor(min(max(high - 0.5, -1.0), count - 1.0))
    return first, last


@compiled
@no_type_check
def _least(dx: float, dy: float) -> float:
    """The threshold of an edge function: 0 for a top or left edge (its points are inside), else more than 0."""
    return 0.0 if dy < 0.0 or (dy == 0.0 and dx > 0.0) else SMALLEST_EDGE


@compiled
@no_type_check
def _fill(
    a: Vector, b: Vector, c: Vector, area: float, face: int, nearest: np.ndarray, face_ids: np.ndarray
) -> None:
    """Draws one triangle, with corners (u, v, 1/z) clockwise on the screen, into the nearest inverse depths."""
    height, width = nearest.shape
    first_row, last_row = _centres_between(min(a[1], b[1], c[1]), max(a[1], b[1], c[1]), height)
    first, last = _centres_between(min(a[0], b[0], c[0]), max(a[0], b[0], c[0]), width)
    if first > last or first_row > last_row:
        return
    bc_x, bc_y, ca_x, ca_y = c[0] - b[0], c[1] - b[1], a[0] - c[0], a[1] - c[1]
    ab_x, ab_y = b[0] - a[0], b[1] - a[1]
    least_a, least_b, least_c = _least(bc_x, bc_y), _least(ca_x, ca_y), _least(ab_x, ab_y)
    inverse_a, inverse_b, inverse_c = a[2] / area, b[2] / area, c[2] / area
    for row in range(first_row, last_row + 1):
        edge_a = bc_x * (row + 0.5 - b[1]) - bc_y * (first + 0.5 - b[0])
        edge_b = ca_x * (row + 0.5 - c[1]) - ca_y * (first + 0.5 - c[0])
        edge_c = area - edge_a - edge_b
        for column in range(first, last + 1):
            if edge_a >= least_a and edge_b >= least_b and edge_c >= least_c:
                inverse = np.float32(edge_a * inverse_a + edge_b * inverse_b + edge_c * inverse_c)
                if inverse > nearest[row, column]:
                    nearest[row, column] = inverse
                    face_ids[row, column] = face
            edge_a -= bc_y
            edge_b -= ca_y
            edge_c -= ab_y


@compiled
@no_type_check
def draw(
    vertices: np.ndarray,
    faces: np.ndarray,
    focal: float,
    cx: float,
    cy: float,
    depth: np.ndarray,
    face_ids: np.ndarray,
) -> None:
    """The first pass: depth along the axis and face ids of one mesh; 0 and -1 in the background."""
    points = _project(vertices, focal, cx, cy)
    depth[:] = 0.0
    face_ids[:] = -1
    for face in range(len(faces)):
        a, b, c = _corners(points, faces, face)
        if a[2] == 0.0 or b[2] == 0.0 or c[2] == 0.0:
            continue
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area > 0.0:
            _fill(a, b, c, area, face, depth, face_ids)
        elif area < 0.0:
            _fill(a, c, b, -area, face, depth, face_ids)
    for row in range(depth.shape[0]):
        for column in range(depth.shape[1]):
            if face_ids[row, column] >= 0:
                depth[row, column] = np.float32(1.0) / depth[row, column]


@compiled
@no_type_check
def _weights(ray: Vector, a: Vector, b: Vector, c: Vector) -> Vector:
    """Barycentric weights of the intersection of a ray with the triangle's plane, clamped to the triangle, because
    snapping can move the point slightly outside."""
    weight_a, weight_b, weight_c = _dot(_cross(b, c), ray), _dot(_cross(c, a), ray), _dot(_cross(a, b), ray)
    total = weight_a + weight_b + weight_c
    if total == 0.0:  # exactly edge-on
        return 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0
    weight_a, weight_b = max(weight_a / total, 0.0), max(weight_b / total, 0.0)
    weight_c = max(weight_c / total, 0.0)
    total = weight_a + weight_b + weight_c
    return weight_a / total, weight_b / total, weight_c / total


@compiled
@no_type_check
def interpolate_pixels(
    face_ids: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    attributes: np.ndarray,
    focal: float,
    cx: float,
    cy: float,
    out: np.ndarray,
) -> None:
    """The second pass: vertex attributes interpolated at each visible pixel."""
    for row in range(face_ids.shape[0]):
        for column in range(face_ids.shape[1]):
            face = face_ids[row, column]
            if face < 0:
                out[row, column] = 0.0
                continue
            ray = ((column + 0.5 - cx) / focal, (row + 0.5 - cy) / focal, 1.0)
            a, b, c = _corners(vertices, faces, face)
            weights = _weights(ray, a, b, c)
            for channel in range(attributes.shape[1]):
                value = 0.0
                for corner in range(3):
                    value += weights[corner] * attributes[faces[face, corner], channel]
                out[row, column, channel] = value


@compiled
@no_type_check
def smooth_normals(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> None:
    """For each vertex, the normalised sum of the cross products of its faces (area-weighted); 0 without faces."""
    sums = np.zeros(vertices.shape)
    for face in range(len(faces)):
        a, b, c = _corners(vertices, faces, face)
        normal = _face_normal(a, b, c)
        for corner in range(3):
            for axis in range(3):
                sums[faces[face, corner], axis] += normal[axis]
    for vertex in range(len(sums)):
        total = _row(sums, vertex)
        length = math.sqrt(_dot(total, total))
        for axis in range(3):
            normals[vertex, axis] = total[axis] / length if length > 0.0 else 0.0


@compiled
@no_type_check
def _oriented(normal: Vector, ray: Vector, a: Vector, b: Vector, c: Vector) -> Vector:
    """See `raster.orient_normals`. `normal` is the interpolated normal at the intersection of ray and face."""
    sign = 1.0 if _dot(_face_normal(a, b, c), a) <= 0.0 else -1.0
    away = max(sign * _dot(normal, ray), 0.0) / _dot(ray, ray)
    x, y = sign * normal[0] - away * ray[0], sign * normal[1] - away * ray[1]
    z = sign * normal[2] - away * ray[2]
    length = math.sqrt(x * x + y * y + z * z)
    if length > 1e-12:
        return x / length, y / length, z / length
    length = -math.sqrt(
        _dot(ray, ray)
    )  # the interpolated normal is 0 or points straight away from the camera
    return ray[0] / length, ray[1] / length, ray[2] / length


@compiled
@no_type_check
def smooth_pixels(
    face_ids: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    vertex_normals: np.ndarray,
    focal: float,
    cx: float,
    cy: float,
    normals: np.ndarray,
) -> None:
    """The second pass for normals: interpolates and orients them, reading each face once."""
    for row in range(face_ids.shape[0]):
        for column in range(face_ids.shape[1]):
            face = face_ids[row, column]
            normal = (0.0, 0.0, 0.0)
            if face >= 0:
                ray = ((column + 0.5 - cx) / focal, (row + 0.5 - cy) / focal, 1.0)
                a, b, c = _corners(vertices, faces, face)
                u, v, w = _weights(ray, a, b, c)
                p, q, r = _corners(vertex_normals, faces, face)
                x, y = u * p[0] + v * q[0] + w * r[0], u * p[1] + v * q[1] + w * r[1]
                normal = _oriented((x, y, u * p[2] + v * q[2] + w * r[2]), ray, a, b, c)
            normals[row, column, 0], normals[row, column, 1], normals[row, column, 2] = normal


@compiled
@no_type_check
def orient_pixels(
    normals: np.ndarray,
    face_ids: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    focal: float,
    cx: float,
    cy: float,
) -> None:
    """`raster.orient_normals`, in place."""
    for row in range(face_ids.shape[0]):
        for column in range(face_ids.shape[1]):
            face = face_ids[row, column]
            if face < 0:
                continue
            a, b, c = _corners(vertices, faces, face)
            ray = ((column + 0.5 - cx) / focal, (row + 0.5 - cy) / focal, 1.0)
            smooth = normals[row, column, 0], normals[row, column, 1], normals[row, column, 2]
            turned = _oriented(smooth, ray, a, b, c)
            normals[row, column, 0], normals[row, column, 1], normals[row, column, 2] = turned
