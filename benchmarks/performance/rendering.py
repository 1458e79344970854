"""Twenty overlays by the rasteriser, beside pyrender and ray casting with Embree.

    pip install -e ".[bench]"
    python -m benchmarks rendering

Twenty bodies in poses of the built-in sampler fill most of a square picture. `RGBA` is the shaded picture that a
network or a report is given: the rasteriser's frame and `hmr.render.overlay`, pyrender's default lit pass. `depth` is
the depth and mask alone, which pyrender draws fastest with `RenderFlags.DEPTH_ONLY`. Embree finds the first hit of
each pixel's ray, through trimesh. Vertices are uploaded and trees are built anew for every mesh, because every
hypothesis is another mesh. OpenGL runs in software where there is no GPU.
"""

from __future__ import annotations

import os

import numpy as np
import pyrender
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation, binary_erosion
from trimesh.ray.ray_pyembree import RayMeshIntersector

from benchmarks.performance.figure import Figure, at_least, median_ms, times_faster
from hmr.body.model import Body, load_body
from hmr.render.gl import GL_FROM_CV, available
from hmr.render.overlay import overlay
from hmr.render.raster import RasterRenderer
from hmr.render.threads import parallel_map
from hmr.synthetic.poses import sample_poses
from hmr.types import NUM_BETAS, BodyParams, Camera, Frame

COUNT = 20
SIZES_PX = (224, 512)
DISTANCE_M = 4.0
EXTENT_M = 2.4  # of the picture, at the body
Vertices = Float[np.ndarray, "batch vertices 3"]
Faces = Int[np.ndarray, "faces 3"]


class Peers:
    """The same bodies drawn by pyrender and by Embree."""

    def __init__(self, vertices_cam_m: Vertices, faces: Faces, camera: Camera) -> None:
        self.vertices, self.faces, self.camera = vertices_cam_m, faces, camera
        self.canvas = pyrender.OffscreenRenderer(camera.width, camera.height)
        rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
        x, y = (columns - camera.cx_px) / camera.focal_px, (rows - camera.cy_px) / camera.focal_px
        self.rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)

    def pyrender(self, flags: int) -> list[np.ndarray]:
        """Depths in metres, 0 in the background; the colours are thrown away."""
        depths = []
        for vertices in self.vertices:
            mesh = trimesh.Trimesh(vertices @ GL_FROM_CV, self.faces, process=False)
            scene = pyrender.Scene(bg_color=(0.0, 0.0, 0.0, 0.0))
            scene.add(pyrender.Mesh.from_trimesh(mesh))
            scene.add(pyrender.DirectionalLight(intensity=3.0))
            focal_px, cx_px, cy_px = self.camera.focal_px, self.camera.cx_px, self.camera.cy_px
            scene.add(pyrender.IntrinsicsCamera(focal_px, focal_px, cx_px, cy_px, znear=0.05, zfar=100.0))
            found = self.canvas.render(scene, flags)
            depths.append(found if flags & pyrender.RenderFlags.DEPTH_ONLY else found[1])
        return depths

    def embree(self) -> list[np.ndarray]:
        """Face ids by pixel, -1 in the background."""
        origins = np.zeros_like(self.rays)
        meshes = (trimesh.Trimesh(vertices, self.faces, process=False) for vertices in self.vertices)
        shape = (self.camera.height, self.camera.width)
        return [
            RayMeshIntersector(mesh).intersects_first(origins, self.rays).reshape(shape) for mesh in meshes
        ]


def figures() -> list[Figure]:
    """Raises ValueError if no OpenGL context can be created."""
    works, platform = available()
    if not works:
        raise ValueError(f"pyrender cannot draw here: {platform}")
    os.environ["PYOPENGL_PLATFORM"] = platform
    vertices, faces = _bodies(load_body())
    found = []
    for size in SIZES_PX:
        camera = Camera(size * DISTANCE_M / EXTENT_M, size / 2, size / 2, size, size)
        found += _at_size(vertices, faces, camera, f"pyrender {pyrender.__version__} ({platform})")
    return found


def _at_size(vertices: Vertices, faces: Faces, camera: Camera, peer: str) -> list[Figure]:
    peers, size = Peers(vertices, faces, camera), camera.width
    photo = np.full((size, size, 3), 128, np.uint8)
    renderer, single = RasterRenderer(), RasterRenderer(threads=1)

    def overlays(renderer: RasterRenderer) -> None:
        frame = renderer.render(vertices, faces, camera)
        parallel_map(lambda index: overlay(photo, frame, index=index), COUNT)

    frame = renderer.render(vertices, faces, camera)
    depth_ms = median_ms(lambda: renderer.render(vertices, faces, camera))
    rgba_ms = median_ms(lambda: overlays(renderer))
    single_ms = median_ms(lambda: single.render(vertices, faces, camera))
    title = f"{COUNT} bodies at {size} x {size}"
    return [
        Figure(f"{title}, RGBA", rgba_ms, "ms", f"{peer}, default flags",
               median_ms(lambda: peers.pyrender(pyrender.RenderFlags.NONE), 3), times_faster(50)),
        Figure(f"{title}, RGBA", rgba_ms, "ms", f"{peer}, FLAT",
               median_ms(lambda: peers.pyrender(pyrender.RenderFlags.FLAT), 3)),
        Figure(f"{title}, depth", depth_ms, "ms", f"{peer}, DEPTH_ONLY",
               median_ms(lambda: peers.pyrender(pyrender.RenderFlags.DEPTH_ONLY), 3), times_faster(5)),
        Figure(f"{title}, face of each pixel", depth_ms, "ms", "trimesh with Embree", median_ms(peers.embree, 3)),
        Figure(f"{title}, {torch.get_num_threads()} threads", depth_ms, "ms", "one thread", single_ms),
        Figure(f"{title}, masks equal but for edges", _agreement(frame, peers.embree()), "% of pixels",
               goal=at_least(100.0), note="pixels off the outline whose mask is that of Embree"),
    ]  # fmt: skip


def _bodies(body: Body) -> tuple[Vertices, Faces]:
    poses = sample_poses(COUNT, torch.Generator().manual_seed(0))
    transl = torch.tensor([[0.0, 0.0, DISTANCE_M]]).expand(COUNT, 3)
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).expand(COUNT, 3)  # the camera's y points down
    params = BodyParams(upright, poses.body_pose, torch.zeros(COUNT, NUM_BETAS), transl)
    return body(params).vertices_cam_m.numpy(), body.faces.numpy()


def _agreement(frame: Frame, face_ids: list[np.ndarray]) -> float:
    """Percent of the pixels away from the outline that are body in both or in neither."""
    equal = total = 0
    for ours, theirs in zip(frame.mask, (ids >= 0 for ids in face_ids), strict=True):
        inside = ~_outline(theirs)
        equal += int((ours == theirs)[inside].sum())
        total += int(inside.sum())
    return 100 * equal / total


def _outline(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    return binary_dilation(mask) & ~binary_erosion(mask)
