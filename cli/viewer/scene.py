"""The panels of `cli.viewer.contents` as nodes of viser's scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import viser
from jaxtyping import Int, UInt8

from cli.viewer.contents import Mesh, Panel
from hmr.render.overlay import Color
from hmr.types import Box

__all__ = ["PanelScene"]

EDGES: Color = (0.45, 0.47, 0.50)
BONES: Color = (0.95, 0.36, 0.16)
OBSERVED: Color = (0.98, 0.78, 0.10)
EDGE_PX, BONE_PX = 1.5, 4.0  # on the screen
LABEL_SIZE = 1.1
ROOT = "/panels"

ImageOf = Callable[[Box], UInt8[np.ndarray, "height width 3"]]


class PanelScene:
    """Draws panels, and changes only what differs from the panels before.

    image_of: the pixels of a part of the photograph.
    """

    def __init__(
        self, scene: viser.SceneApi, image_of: ImageOf, faces: Int[np.ndarray, "faces 3"], num_panels: int
    ) -> None:
        self._root = scene.add_frame(ROOT, show_axes=False)
        self._panels = [
            _PanelNodes(scene, f"{ROOT}/{number}", image_of, faces) for number in range(num_panels)
        ]

    def draw(self, panels: Sequence[Panel]) -> None:
        for nodes, panel in zip(self._panels, panels, strict=True):
            nodes.draw(panel)

    def remove(self) -> None:
        self._root.remove()


class _PanelNodes:
    """The nodes of one panel, under `path`."""

    def __init__(
        self, scene: viser.SceneApi, path: str, image_of: ImageOf, faces: Int[np.ndarray, "faces 3"]
    ) -> None:
        self._scene, self._path, self._image_of, self._faces = scene, path, image_of, faces
        self._frame = scene.add_frame(path, show_axes=False)
        self._region: Box | None = None  # of the photograph, that is shown
        self._meshes: dict[str, viser.MeshHandle] = {}
        self._fleeting: list[viser.SceneNodeHandle] = []  # small nodes that are made anew every time

    def draw(self, panel: Panel) -> None:
        self._frame.position = panel.offset_m
        self._frame.wxyz = np.array([math.cos(panel.turn_rad / 2), 0.0, math.sin(panel.turn_rad / 2), 0.0])
        self._draw_picture(panel)
        for key in self._meshes.keys() - panel.meshes.keys():
            self._meshes.pop(key).remove()
        for key, mesh in panel.meshes.items():
            self._draw_mesh(key, mesh)
        for node in self._fleeting:
            node.remove()
        self._fleeting = [*self._drawn_bones(panel), *self._drawn_points(panel), *self._drawn_labels(panel)]

    def _draw_picture(self, panel: Panel) -> None:
        picture = panel.picture
        if picture.region_px != self._region:
            self._region = picture.region_px
            self._photograph = self._scene.add_image(
                f"{self._path}/photograph", self._image_of(picture.region_px), *picture.size_m,
                position=picture.center_m, cast_shadow=False, receive_shadow=False,
            )  # fmt: skip
            self._scene.add_line_segments(
                f"{self._path}/frustum",
                picture.edges_m,
                _rgb(EDGES),
                thickness=EDGE_PX,
                thickness_units="screen",
            )
        self._photograph.visible = panel.has_photograph

    def _draw_mesh(self, key: str, mesh: Mesh) -> None:
        opacity = None if mesh.opacity == 1 else mesh.opacity
        vertices = mesh.vertices_m.astype(np.float32)
        if (handle := self._meshes.get(key)) is None:
            self._meshes[key] = self._scene.add_mesh_simple(
                f"{self._path}/body {key}", vertices, self._faces, color=_rgb(mesh.color), opacity=opacity
            )
        else:
            handle.vertices, handle.color, handle.opacity = vertices, _rgb(mesh.color), opacity

    def _drawn_bones(self, panel: Panel) -> Iterator[viser.SceneNodeHandle]:
        if len(panel.bones_m):
            yield self._scene.add_line_segments(
                f"{self._path}/bones", panel.bones_m, _rgb(BONES), thickness=BONE_PX, thickness_units="screen"
            )

    def _drawn_points(self, panel: Panel) -> Iterator[viser.SceneNodeHandle]:
        if len(panel.observed_m):
            yield self._scene.add_point_cloud(
                f"{self._path}/observed", panel.observed_m, _rgb(OBSERVED), point_size=panel.observed_size_m,
                point_shape="circle", precision="float32",
            )  # fmt: skip

    def _drawn_labels(self, panel: Panel) -> Iterator[viser.SceneNodeHandle]:
        for number, label in enumerate(panel.labels):
            yield self._scene.add_label(
                f"{self._path}/label {number}", label.text, position=label.position_m,
                font_screen_scale=LABEL_SIZE, anchor="bottom-center",
            )  # fmt: skip


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (round(channel * 255) for channel in color)
    return red, green, blue
