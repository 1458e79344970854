"""A renderer that uses pyrender (OpenGL, common in the field), with the same protocol as the rasteriser.

Depth is OpenGL's depth buffer. Face ids and normals come from two flat passes over unshared corners, whose colours
encode the id (24 bits) and the smooth vertex normal (8 bits per axis: a quarter of a degree), so that OpenGL alone
determines visibility. Multisampling, which would mix the ids of adjacent faces, is disabled.

Unlike `raster.py`, which drops triangles at the near plane, OpenGL clips them, and one context serves one thread.
pyrender 0.1.45 pins PyOpenGL 3.1.0, which fails on Python 3.12 and later. Importing this module does not use OpenGL:
a broken driver can crash the process, so a child process tries it first.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hmr.render.kernels import NEAR_M
from hmr.render.raster import orient_normals, vertex_normals
from hmr.types import Camera, Frame

__all__ = ["OpenGLUnavailable", "PyrenderRenderer", "available"]

FAR_M = 100.0
PROBE_LIMIT_S = 60
PROBE = "import pyrender; pyrender.OffscreenRenderer(8, 8).delete()"
GL_FROM_CV = np.diag([1.0, -1.0, -1.0])  # OpenGL's camera has y up and looks along -z


class OpenGLUnavailable(ValueError):
    """No OpenGL context can be created for pyrender."""


def available() -> tuple[bool, str]:
    """Whether pyrender works, and its platform ("egl", "osmesa") or the reason why not. Tested once per process."""
    platform, failures = _working_platform()
    return platform is not None, platform or failures


@functools.cache
def _working_platform() -> tuple[str | None, str]:
    """The first platform on which a child process can create a context. PYOPENGL_PLATFORM, if set, is the only one
    tried."""
    failures = []
    for platform in (os.environ.get("PYOPENGL_PLATFORM") or "egl osmesa").split():
        try:
            child = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", PROBE],
                env={**os.environ, "PYOPENGL_PLATFORM": platform},
                capture_output=True,
                text=True,
                timeout=PROBE_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{platform}: no answer in {PROBE_LIMIT_S} s")
            continue
        if child.returncode == 0:
            return platform, ""
        last_line = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        failures.append(f"{platform}: {last_line}")
    return None, "; ".join(failures)


class PyrenderRenderer:
    """Renders offscreen with pyrender. Sets PYOPENGL_PLATFORM for this process if it is not set.

    Raises:
        OpenGLUnavailable: no OpenGL context can be created; the message lists the platforms tried and their errors.
    """

    name = "pyrender"

    def __init__(self) -> None:
        platform, failures = _working_platform()
        if platform is None:
            raise OpenGLUnavailable(
                f"pyrender cannot create an OpenGL context ({failures}); 'raster' needs none"
            )
        os.environ["PYOPENGL_PLATFORM"] = platform
        self._offscreen: Any = None

    def render(
        self,
        vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
        faces: Int[np.ndarray, "faces 3"],
        camera: Camera,
    ) -> Frame:
        """One frame per mesh, rendered one after the other."""
        shape = (len(vertices_cam_m), camera.height, camera.width)
        depth_m, face_ids = np.empty(shape, np.float32), np.empty(shape, np.int32)
        normals = np.empty((*shape, 3), np.float32)
        for index, vertices in enumerate(vertices_cam_m):
            depth_m[index], normals[index], face_ids[index] = self._render_one(vertices, faces, camera)
        return Frame(depth_m, normals, face_ids >= 0, face_ids)

    def _render_one(
        self, vertices: np.ndarray, faces: np.ndarray, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depth, normals and face ids of one mesh."""
        corners = vertices[faces].reshape(-1, 3)
        ids, depth_m = self._flat_pass(corners, np.repeat(_encode_ids(len(faces)), 3, axis=0), camera)
        face_ids = _decode_ids(ids)
        smooth = (vertex_normals(vertices, faces)[faces].reshape(-1, 3) + 1) / 2
        colours, _ = self._flat_pass(corners, np.rint(smooth * 255).astype(np.uint8), camera)
        normals = np.where(face_ids[..., None] >= 0, colours / 255 * 2 - 1, 0).astype(np.float32)
        return depth_m, orient_normals(normals, face_ids, vertices, faces, camera), face_ids

    def _flat_pass(
        self, corners: np.ndarray, colours: np.ndarray, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colours (background 0) and depth of unlit triangles, three corners each."""
        import pyrender

        material = pyrender.MetallicRoughnessMaterial(baseColorFactor=(1.0, 1.0, 1.0, 1.0), doubleSided=True)
        opaque = np.concatenate([colours, np.full((len(colours), 1), 255, np.uint8)], axis=1)
        primitive = pyrender.Primitive(corners @ GL_FROM_CV, color_0=opaque / 255.0, material=material)
        scene = pyrender.Scene(bg_color=(0.0, 0.0, 0.0, 0.0))
        scene.add(pyrender.Mesh([primitive]))
        scene.add(
            pyrender.IntrinsicsCamera(
                camera.focal_px, camera.focal_px, camera.cx_px, camera.cy_px, znear=NEAR_M, zfar=FAR_M
            )
        )
        return self._canvas(camera).render(scene, pyrender.RenderFlags.FLAT)

    def _canvas(self, camera: Camera) -> Any:
        if self._offscreen is None:
            self._offscreen = _offscreen(camera.width, camera.height)
        self._offscreen.viewport_width, self._offscreen.viewport_height = camera.width, camera.height
        return self._offscreen


def _offscreen(width: int, height: int) -> Any:
    """pyrender's offscreen renderer with one sample per pixel. Its forward pass enables multisampling before it calls
    `_get_camera_matrices`, which is overridden to disable it."""
    import pyrender
    from OpenGL.GL import GL_MULTISAMPLE, glDisable

    class OneSampleRenderer(pyrender.renderer.Renderer):
        def _get_camera_matrices(self, scene: Any) -> Any:
            glDisable(GL_MULTISAMPLE)
            return super()._get_camera_matrices(scene)

    offscreen = pyrender.OffscreenRenderer(width, height)
    offscreen._renderer = OneSampleRenderer(width, height)
    return offscreen


def _encode_ids(count: int) -> np.ndarray:
    """Colours of faces 0 ... count-1; black is the background."""
    ids = np.arange(1, count + 1)
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=1).astype(np.uint8)


def _decode_ids(colours: np.ndarray) -> np.ndarray:
    return colours[..., :3].astype(np.int64) @ np.array([1, 256, 65536]) - 1
