"""The default renderer: a z-buffer rasteriser in numba, without OpenGL or other system packages.

`kernels.py` describes the method and its sources. Left out: clipping (a triangle with a corner nearer than 5 cm is
dropped; bodies are metres away), anti-aliasing (masks are binary; pictures are supersampled, see `overlay.py`) and
back-face culling (open meshes show their inside, with normals facing the camera). Meshes are rendered in parallel
threads (`threads.py`).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from hmr.render import kernels
from hmr.render.threads import parallel_map
from hmr.types import Camera, Frame

__all__ = ["RasterRenderer", "interpolate", "orient_normals", "vertex_normals"]


class RasterRenderer:
    """Renders a batch of meshes on CPU threads. Thread-safe.

    Normals are smooth: area-weighted at the vertices, interpolated over the faces.

    Args:
        threads: the number of meshes rendered in parallel; None: as many as torch uses threads.
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
        """One frame per mesh.

        Raises:
            ValueError: a face has a vertex index that does not exist.
        """
        vertices, faces = _checked(vertices_cam_m, faces)
        shape = (len(vertices), camera.height, camera.width)
        depth_m, face_ids = np.empty(shape, np.float32), np.empty(shape, np.int32)
        normals = np.empty((*shape, 3), np.float32)
        lens = (camera.focal_px, camera.cx_px, camera.cy_px)

        def draw(index: int) -> None:
            mesh, ids = vertices[index], face_ids[index]
            kernels.draw(mesh, faces, *lens, depth_m[index], ids)
            kernels.smooth_pixels(ids, mesh, faces, _vertex_normals(mesh, faces), *lens, normals[index])

        parallel_map(draw, len(vertices), self.threads)
        return Frame(depth_m, normals, face_ids >= 0, face_ids)


def interpolate(
    frame: Frame,
    vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    attributes: Float[np.ndarray, "#batch vertices channels"],
    camera: Camera,
) -> Float[np.ndarray, "batch height width channels"]:
    """Vertex attributes (colours, texture coordinates, rest positions, ...) interpolated at the pixels of a frame,
    perspective-correct; 0 in the background. One set of attributes may be shared by the whole batch.

    Works with the frame of any renderer, because it uses only its face ids.
    """
    vertices, faces = _checked(vertices_cam_m, faces)
    values = np.ascontiguousarray(attributes, np.float32)
    out = np.empty((*frame.mask.shape, values.shape[-1]), np.float32)
    face_ids = np.ascontiguousarray(frame.face_ids, np.int32)

    def shade(index: int) -> None:
        lens = (camera.focal_px, camera.cx_px, camera.cy_px)
        attribute = values[index if len(values) > 1 else 0]
        kernels.interpolate_pixels(face_ids[index], vertices[index], faces, attribute, *lens, out[index])

    parallel_map(shade, len(vertices))
    return out


def vertex_normals(
    vertices_m: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals of one mesh, the area-weighted mean of the adjacent faces; 0 for a vertex without faces."""
    vertices, faces = _checked(vertices_m[None], faces)
    return _vertex_normals(vertices[0], faces)


def orient_normals(
    normals: Float[np.ndarray, "height width 3"],
    face_ids: Int[np.ndarray, "height width"],
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    camera: Camera,
) -> Float[np.ndarray, "height width 3"]:
    """Interpolated normals, oriented to the camera and normalised.

    Normals of back faces are negated. Normals that smoothing turns away from the camera near a silhouette are projected
    to be orthogonal to the ray, so that normal . ray <= 0 everywhere.
    """
    vertices, faces = _checked(vertices_cam_m[None], faces)
    oriented = np.array(normals, np.float32)
    lens = (camera.focal_px, camera.cx_px, camera.cy_px)
    kernels.orient_pixels(oriented, np.ascontiguousarray(face_ids, np.int32), vertices[0], faces, *lens)
    return oriented


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    normals = np.zeros(vertices.shape, np.float32)
    kernels.smooth_normals(vertices, faces, normals)
    return normals


def _checked(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The memory layout that the kernels are compiled for. They do not check bounds, so faces are checked here."""
    if faces.size and not 0 <= faces.min() <= faces.max() < vertices.shape[1]:
        raise ValueError(
            f"faces have vertex indices {faces.min()} to {faces.max()}, but a mesh has {vertices.shape[1]} vertices"
        )
    return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
