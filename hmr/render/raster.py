"""The default renderer: a z-buffer rasteriser in numba, which needs neither OpenGL nor a system package.

The method and its sources are in `kernels.py`. Left out: clipping (a triangle with any corner nearer than
5 cm is dropped: bodies stand metres away), anti-aliasing (a mask is a yes or a no; pictures are drawn larger
and reduced, see `overlay.py`) and back-face culling (open meshes show their inside, with normals turned to
the camera). Meshes are spread over threads (`threads.py`).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from hmr.render import kernels
from hmr.render.threads import each
from hmr.types import Camera, Frame

__all__ = ["RasterRenderer", "interpolate", "orient_normals", "vertex_normals"]


class RasterRenderer:
    """Draws a batch of meshes on CPU threads; one object may serve several callers at once.

    Normals are smooth: area-weighted at the vertices, interpolated over the faces.

    Args:
        threads: how many meshes are drawn side by side; as many as torch was given when it is None.
    """

    name = "raster"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def render(
        self,
        vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
        faces: Int[np.ndarray, "faces 3"],
        camera: Camera,
    ) -> Frame:
        """One frame a mesh.

        Raises:
            ValueError: a face names a vertex that is not there.
        """
        vertices, faces = _plain(vertices_cam_m, faces)
        shape = (len(vertices), camera.height, camera.width)
        depth_m, face_ids = np.empty(shape, np.float32), np.empty(shape, np.int32)
        normals = np.empty((*shape, 3), np.float32)
        lens = (camera.focal_px, camera.cx_px, camera.cy_px)

        def draw(index: int) -> None:
            mesh, seen = vertices[index], face_ids[index]
            kernels.draw(mesh, faces, *lens, depth_m[index], seen)
            kernels.smooth_pixels(seen, mesh, faces, _corner_normals(mesh, faces), *lens, normals[index])

        each(draw, len(vertices), self.threads)
        return Frame(depth_m, normals, face_ids >= 0, face_ids)


def interpolate(
    frame: Frame,
    vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    attributes: Float[np.ndarray, "#batch vertices channels"],
    camera: Camera,
) -> Float[np.ndarray, "batch height width channels"]:
    """Vertex attributes (colours, texture coordinates, rest positions, ...) as the visible pixels of a frame
    see them, perspective-correct; 0 where nothing is seen. One set of attributes may serve the whole batch.

    Works for any renderer's frame: what it needs is which face each pixel sees.
    """
    vertices, faces = _plain(vertices_cam_m, faces)
    values = np.ascontiguousarray(attributes, np.float32)
    out = np.empty((*frame.mask.shape, values.shape[-1]), np.float32)
    face_ids = np.ascontiguousarray(frame.face_ids, np.int32)

    def shade(index: int) -> None:
        lens = (camera.focal_px, camera.cx_px, camera.cy_px)
        attribute = values[index if len(values) > 1 else 0]
        kernels.interpolate_pixels(face_ids[index], vertices[index], faces, attribute, *lens, out[index])

    each(shade, len(vertices))
    return out


def vertex_normals(
    vertices_m: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals of one mesh, each face weighing in by its area; 0 for a vertex without faces."""
    vertices, faces = _plain(vertices_m[None], faces)
    return _corner_normals(vertices[0], faces)


def orient_normals(
    normals: Float[np.ndarray, "height width 3"],
    face_ids: Int[np.ndarray, "height width"],
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    camera: Camera,
) -> Float[np.ndarray, "height width 3"]:
    """Interpolated normals turned to the camera and made unit length.

    Those of faces seen from behind are negated, and what smoothing bends past a silhouette is laid at right
    angles to the ray, so that normal . ray <= 0 everywhere.
    """
    vertices, faces = _plain(vertices_cam_m[None], faces)
    oriented = np.array(normals, np.float32)
    lens = (camera.focal_px, camera.cx_px, camera.cy_px)
    kernels.orient_pixels(oriented, np.ascontiguousarray(face_ids, np.int32), vertices[0], faces, *lens)
    return oriented


def _corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    normals = np.zeros(vertices.shape, np.float32)
    kernels.smooth_normals(vertices, faces, normals)
    return normals


def _plain(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one memory layout the kernels are compiled for; they check no bounds, so faces are checked here."""
    if faces.size and not 0 <= faces.min() <= faces.max() < vertices.shape[1]:
        raise ValueError(
            f"faces name vertices {faces.min()} to {faces.max()}, but a mesh has {vertices.shape[1]} of them"
        )
    return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
