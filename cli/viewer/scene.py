"""The panels of `cli.viewer.contents` as nodes of viser's scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import viser
from jaxtyping import Int, UInt8

from cli.viewer.contents import Mesh, Panel
from hmr.render.overlay import Color

__all__ = ["PanelScene"]

EDGES: Color = (0.45, 0.47, 0.50)
BONES: Color = (0.95, 0.36, 0.16)
OBSERVED: Color = (0.98, 0.78, 0.10)
EDGE_PX, BONE_PX = 1.5, 4.0  # on the screen
LABEL_SIZE = 1.1
ROOT = "/panels"


class PanelScene:
    """Draws panels, and changes only what differs from the panels before.

    image: the photograph.
    """

    def __init__(
        self,
        scene: viser.SceneApi,
        image: UInt8[np.ndarray, "height width 3"],
        faces: Int[np.ndarray, "faces 3"],
        panels: Sequence[Panel],
    ) -> None:
        self._scene, self._faces = scene, faces
        self._root = scene.add_frame(ROOT, show_axes=False)
        self._panels = [_PanelNodes(scene, f"{ROOT}/{number}", image, faces, panel) for number, panel in enumerate(panels)]

    def draw(self, panels: Sequence[Panel]) -> None:
        for nodes, panel in zip(self._panels, panels, strict=True):
            nodes.draw(panel)

    def remove(self) -> None:
        self._root.remove()


class _PanelNodes:
    """The nodes of one panel, under `path`. Photograph and frustum stay the same."""

    def __init__(
        self,
        scene: viser.SceneApi,
        path: str,
        image: UInt8[np.ndarray, "height width 3"],
        faces: Int[np.ndarray, "faces 3"],
        panel: Panel,
    ) -> None:
        self._scene, self._path, self._faces = scene, path, faces
        self._frame = scene.add_frame(path, show_axes=False)
        picture = panel.picture
        self._photograph = scene.add_image(
            f"{path}/photograph", image, *picture.size_m, position=picture.center_m, cast_shadow=False,
            receive_shadow=False,
        )  # fmt: skip
        scene.add_line_segments(
            f"{path}/frustum", picture.edges_m, _rgb(EDGES), thickness=EDGE_PX, thickness_units="screen"
        )
        self._meshes: dict[str, viser.MeshHandle] = {}
        self._labels: list[viser.LabelHandle] = []
        self._bones: viser.LineSegmentsHandle | None = None
        self._observed: viser.PointCloudHandle | None = None

    def draw(self, panel: Panel) -> None:
        self._frame.position = panel.offset_m
        self._photograph.visible = panel.has_photograph
        for key in self._meshes.keys() - panel.meshes.keys():
            self._meshes.pop(key).remove()
        for key, mesh in panel.meshes.items():
            self._draw_mesh(key, mesh)
        self._draw_bones(panel)
        self._draw_observed(panel)
        self._draw_labels(panel)

    def _draw_mesh(self, key: str, mesh: Mesh) -> None:
        opacity = None if mesh.opacity == 1 else mesh.opacity
        vertices = mesh.vertices_m.astype(np.float32)
        if (handle := self._meshes.get(key)) is None:
            self._meshes[key] = self._scene.add_mesh_simple(
                f"{self._path}/body {key}", vertices, self._faces, color=_rgb(mesh.color), opacity=opacity
            )
        else:
            handle.vertices, handle.color, handle.opacity = vertices, _rgb(mesh.color), opacity

    def _draw_bones(self, panel: Panel) -> None:
        if self._bones is not None:
            self._bones.remove()
            self._bones = None
        if len(panel.bones_m):
            self._bones = self._scene.add_line_segments(
                f"{self._path}/bones", panel.bones_m, _rgb(BONES), thickness=BONE_PX, thickness_units="screen"
            )

    def _draw_observed(self, panel: Panel) -> None:
        if self._observed is not None:
            self._observed.remove()
            self._observed = None
        if len(panel.observed_m):
            self._observed = self._scene.add_point_cloud(
                f"{self._path}/observed", panel.observed_m.astype(np.float32), _rgb(OBSERVED),
                point_size=panel.observed_size_m, point_shape="circle", precision="float32",
            )  # fmt: skip

    def _draw_labels(self, panel: Panel) -> None:
        for label in self._labels:
            label.remove()
        self._labels = [
            self._scene.add_label(
                f"{self._path}/label {number}", label.text, position=label.position_m,
                font_screen_scale=LABEL_SIZE, anchor="bottom-center",
            )
            for number, label in enumerate(panel.labels)
        ]  # fmt: skip


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (round(channel * 255) for channel in color)
    return red, green, blue
