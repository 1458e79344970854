"""Pictures that a person and a VLM can read: matte overlays, side views, labelled panels, crops.

Judges read matte clay better than gloss: one soft key light from the upper left, a sky and a floor of their
own brightness, a faint rim, and a darkening behind depth edges so that an arm stands off the trunk it crosses
(Luft et al., "Image enhancement by unsharp masking the depth buffer", SIGGRAPH 2006). Frames drawn larger
than the photo (`zoom`) give smooth outlines. Any renderer's frames will do. Left out: cast shadows
but for the one on the floor, textures, and any font but the one inside Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from hmr.render import shading
from hmr.render.threads import each
from hmr.types import Camera, Frame, Renderer

__all__ = [
    "CLAY",
    "montage",
    "overlay",
    "panel",
    "score_color",
    "side_view",
    "turn_sideways",
    "zoom",
]

Color = tuple[float, float, float]  # sRGB, 0 to 1

CLAY: Color = (0.60, 0.72, 0.88)
PAPER: Color = (0.955, 0.955, 0.945)
INK: Color = (0.13, 0.15, 0.18)

KEY_LIGHT = (-0.45, -0.65, -0.61)  # towards the light: left, above, in front
HALO_M = 0.08  # depth behind its surroundings at which a surface is darkest
HALO_CELLS = 112  # rows of the grid on which that depth is averaged
STUDIO = np.array([*KEY_LIGHT, HALO_M])
SUPERSAMPLING = 2
SIDE_DISTANCE_M = 8.0
SIDE_EXTENT_M = 2.4  # what a side view shows from edge to edge: the same for all, so that bodies compare
FLOOR_DEPTH_M = 1.2  # how far the floor reaches behind the pelvis
GUTTER = 4


def zoom(camera: Camera, factor: int = SUPERSAMPLING) -> Camera:
    """The same view on `factor` times more pixels a side."""
    return camera.resize(camera.width * factor, camera.height * factor)


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    frame: Frame,
    color: Color = CLAY,
    alpha: float = 0.9,
    index: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """The photo with one mesh of the frame over it in matte clay.

    The frame has the photo's size or a whole multiple of it (see `zoom`), which smooths the outline.

    Raises:
        ValueError: the frame's size is not a whole multiple of the photo's.
    """
    depth_m, mask = np.asarray(frame.depth_m[index], np.float32), frame.mask[index]
    factor = len(mask) // len(image)
    if (len(image) * factor, image.shape[1] * factor) != mask.shape:
        raise ValueError(
            f"a frame of {mask.shape} pixels is no whole multiple of a photo of {image.shape[:2]}"
        )
    step = max(1, len(mask) // HALO_CELLS)
    around_m = np.empty([-(-side // step) for side in mask.shape], np.float32)
    shading.mean_depth(depth_m, mask, step, around_m)
    normals = np.asarray(frame.normals_cam[index], np.float32)
    drawn, look = image.copy(), np.array([*color, alpha])
    shading.lay_over(depth_m, normals, mask, around_m, step, STUDIO, look, drawn)
    return drawn


def turn_sideways(
    vertices_cam_m: Float[np.ndarray, "batch vertices 3"], pelvis_cam_m: Float[np.ndarray, "batch 3"]
) -> Float[np.ndarray, "batch vertices 3"]:
    """Bodies turned by 90 degrees about the camera's vertical through their pelvis, and set before a side
    camera: what was nearer to the photo's camera is now farther left."""
    x, y, z = np.moveaxis(vertices_cam_m - pelvis_cam_m[:, None], -1, 0)
    return np.stack([z, y, SIDE_DISTANCE_M - x], axis=-1)


def side_view(
    vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    pelvis_cam_m: Float[np.ndarray, "batch 3"],
    renderer: Renderer,
    size: int = 224,
    color: Color = CLAY,
    supersampling: int = SUPERSAMPLING,
) -> UInt8[np.ndarray, "batch {size} {size} 3"]:
    """Each body from its side (the photo's camera stands at the left), on paper, with its shadow on a level
    floor under its lowest point. One scale for all: 2.4 m from edge to edge, the pelvis in the middle."""
    camera = Camera(size * SIDE_DISTANCE_M / SIDE_EXTENT_M, size / 2, size / 2, size, size)
    bodies = turn_sideways(vertices_cam_m, pelvis_cam_m)
    frame = renderer.render(bodies, faces, zoom(camera, supersampling))
    views = each(lambda index: overlay(_stage(camera, bodies[index]), frame, color, 1.0, index), len(bodies))
    return np.array(views, np.uint8).reshape(-1, size, size, 3)


def panel(
    photo: UInt8[np.ndarray, "size size 3"] | None,
    overlaid: UInt8[np.ndarray, "size size 3"],
    side: UInt8[np.ndarray, "size size 3"],
    label: str,
    caption: str = "",
    color: Color = INK,
) -> UInt8[np.ndarray, "height width 3"]:
    """One hypothesis for a judge: photo (if given), overlay and side view in a row, a badge with its label in
    `color`, a footer that names the views and carries the caption."""
    views = {"photo": photo, "overlay": overlaid, "side (camera at left)": side}
    shown = {name: view for name, view in views.items() if view is not None}
    size = len(overlaid)
    footer, step = max(size // 9, 14), size + GUTTER
    canvas = Image.new("RGB", (step * len(shown) - GUTTER, size + footer), _rgb(PAPER))
    draw = ImageDraw.Draw(canvas)
    for place, (name, view) in enumerate(shown.items()):
        canvas.paste(Image.fromarray(view), (place * step, 0))
        start = (place * step + GUTTER, size + footer / 2)
        draw.text(start, name, _rgb(INK), _font(footer * 0.6), anchor="lm")
    draw.text(
        (canvas.width - GUTTER, size + footer / 2), caption, _rgb(INK), _font(footer * 0.6), anchor="rm"
    )
    _badge(draw, label, size // 5, color)
    return np.asarray(canvas)


def montage(
    panels: Sequence[UInt8[np.ndarray, "height width 3"]], columns: int
) -> UInt8[np.ndarray, "montage_height montage_width 3"]:
    """Panels of one size in rows of `columns`, on paper."""
    height, width = panels[0].shape[:2]
    rows, gap = math.ceil(len(panels) / columns), 2 * GUTTER
    line = np.tile(np.array(_rgb(PAPER), np.uint8), (1, columns * (width + gap) + gap, 1))
    sheet = np.repeat(line, rows * (height + gap) + gap, axis=0)
    for place, picture in enumerate(panels):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def score_color(score: float | None) -> Color:
    """0 to 100 as brick red over sand to teal; grey for a score that failed."""
    if score is None:
        return (0.55, 0.55, 0.55)
    stops = np.array([[0.76, 0.33, 0.27], [0.86, 0.72, 0.45], [0.16, 0.56, 0.54]])
    red, green, blue = (float(np.interp(score, (0, 50, 100), channel)) for channel in stops.T)
    return (red, green, blue)


def _stage(camera: Camera, body_m: Float[np.ndarray, "vertices 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """A light page, its floor a shade darker, with the body's soft shadow on it."""
    floor_m = float(body_m[:, 1].max())
    horizon = camera.cy_px + camera.focal_px * floor_m / (SIDE_DISTANCE_M + FLOOR_DEPTH_M)
    floor = np.clip((np.arange(camera.height)[:, None, None] + 0.5 - horizon) / 2, 0, 1)
    page = np.asarray(PAPER) * (1 - 0.09 * floor)
    stage = np.repeat(_to_bytes(page), camera.width, axis=1)
    top, left, shadow = _shadow(camera, body_m, floor_m)
    rows, columns = slice(top, top + len(shadow)), slice(left, left + shadow.shape[1])
    stage[rows, columns] = _to_bytes(page[rows] * (1 - 0.4 * shadow[..., None]))
    return stage


def _shadow(
    camera: Camera, body_m: Float[np.ndarray, "vertices 3"], floor_m: float
) -> tuple[int, int, Float[np.ndarray, "rows columns"]]:
    """Where the page's rows and columns with shadow on them begin, and how dark it is there, 0 to 1: of the vertices
    dropped to the floor, which lie denser than pixels."""
    sigma = camera.height / 100
    reach = math.ceil(3 * sigma)
    x, _, z = body_m.T
    columns = np.floor(camera.focal_px * x / z + camera.cx_px).astype(int)
    rows = np.floor(camera.focal_px * floor_m / z + camera.cy_px).astype(int)
    inside = (rows >= 0) & (rows < camera.height) & (columns >= 0) & (columns < camera.width)
    if not inside.any():
        return 0, 0, np.zeros((0, 0), np.float32)
    rows, columns = rows[inside], columns[inside]
    top, left = max(rows.min() - reach, 0), max(columns.min() - reach, 0)
    bottom, right = min(rows.max() + reach + 1, camera.height), min(columns.max() + reach + 1, camera.width)
    mask = np.zeros((bottom - top, right - left), np.float32)
    mask[rows - top, columns - left] = 1
    return int(top), int(left), gaussian_filter(mask, sigma, truncate=3.0)


def _badge(draw: ImageDraw.ImageDraw, label: str, side: int, color: Color) -> None:
    corner = (GUTTER, GUTTER, GUTTER + side, GUTTER + side)
    draw.rounded_rectangle(corner, radius=side // 5, fill=_rgb(color), outline=(255, 255, 255), width=2)
    middle = GUTTER + side / 2
    font = _font(side * 0.78 / max(len(label), 1) ** 0.5)
    draw.text((middle, middle), label, (255, 255, 255), font, anchor="mm")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in color)
    return red, green, blue


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
