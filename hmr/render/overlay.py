"""Pictures for people and VLMs: matte overlays, side views, labelled panels, montages.

The material is matte clay, which is easier to read than a glossy one: a soft key light from the upper left, ambient
light from sky and floor, a faint rim light, and a darkening behind depth edges, which separates an arm from the trunk
behind it (Luft et al., "Image enhancement by unsharp masking the depth buffer", SIGGRAPH 2006). Frames larger than the
photo (`zoom`) give smooth outlines. Frames of any renderer can be used. Left out: cast shadows other than that on the
floor, textures, and fonts other than Pillow's default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from hmr.render import shading
from hmr.render.threads import parallel_map
from hmr.types import Camera, Frame, Renderer

__all__ = [
    "CLAY",
    "PERSON_COLORS",
    "SUPERSAMPLING",
    "body_layer",
    "montage",
    "overlay",
    "panel",
    "rotate_to_side",
    "score_color",
    "score_legend",
    "side_view",
    "zoom",
]

Color = tuple[float, float, float]  # sRGB, 0 to 1

CLAY: Color = (0.60, 0.72, 0.88)
# of the people of one picture: light, and apart for the colour-blind (after Okabe and Ito, jfly.uni-koeln.de/color)
PERSON_COLORS: tuple[Color, ...] = (
    CLAY, (0.93, 0.73, 0.45), (0.50, 0.76, 0.65), (0.87, 0.64, 0.76), (0.94, 0.88, 0.55), (0.90, 0.55, 0.42),
)  # fmt: skip
PAPER: Color = (0.955, 0.955, 0.945)
INK: Color = (0.13, 0.15, 0.18)

KEY_LIGHT = (-0.45, -0.65, -0.61)  # the direction to the light: left, above, in front
HALO_M = 0.08  # the depth behind its surroundings at which a surface is darkest
HALO_CELLS = 112  # rows of the grid on which that depth is averaged
LIGHT = np.array([*KEY_LIGHT, HALO_M])
SUPERSAMPLING = 2
SIDE_DISTANCE_M = 8.0
SIDE_EXTENT_M = 2.4  # the width of a side view, the same for all bodies so that they can be compared
FLOOR_DEPTH_M = 1.2  # the extent of the floor behind the pelvis
GUTTER = 4
LEGEND_PX = 24  # height
LEGEND_BAR_PX = 160


def zoom(camera: Camera, factor: int = SUPERSAMPLING) -> Camera:
    """The same view with `factor` times more pixels per side."""
    return camera.resize(camera.width * factor, camera.height * factor)


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    frame: Frame,
    color: Color = CLAY,
    alpha: float = 0.9,
    index: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """The photo with one mesh of the frame drawn over it in matte clay.

    The frame has the size of the photo or an integer multiple of it (see `zoom`), which smooths the outline.

    Raises:
        ValueError: the size of the frame is not an integer multiple of that of the photo.
    """
    depth_m, mask = np.asarray(frame.depth_m[index], np.float32), frame.mask[index]
    factor = len(mask) // len(image)
    if (len(image) * factor, image.shape[1] * factor) != mask.shape:
        raise ValueError(
            f"a frame of {mask.shape} pixels is not an integer multiple of a photo of {image.shape[:2]}"
        )
    step = max(1, len(mask) // HALO_CELLS)
    around_m = np.empty([-(-side // step) for side in mask.shape], np.float32)
    shading.mean_depth(depth_m, mask, step, around_m)
    normals = np.asarray(frame.normals_cam[index], np.float32)
    drawn, material = image.copy(), np.array([*color, alpha])
    shading.composite(depth_m, normals, mask, around_m, step, LIGHT, material, drawn)
    return drawn


def body_layer(
    frame: Frame, size: int, color: Color = CLAY, index: int = 0
) -> UInt8[np.ndarray, "{size} {size} 4"]:
    """One mesh of a square frame as RGBA, transparent beside the body: drawn over the photo it gives `overlay`.

    size: of the layer in pixels; the frame has an integer multiple of it (see `zoom`).
    """
    black = np.zeros((size, size, 3), np.uint8)
    shaded = overlay(black, frame, color, 1.0, index).astype(np.float32)  # the colour times the coverage
    mask = np.asarray(frame.mask[index], np.float32)
    factor = len(mask) // size
    coverage = mask.reshape(size, factor, size, factor).mean(axis=(1, 3))[..., None]
    straight = np.divide(shaded, coverage, out=np.zeros_like(shaded), where=coverage > 0)
    return _to_bytes(np.concatenate([straight / 255, coverage], axis=-1))


def rotate_to_side(
    vertices_cam_m: Float[np.ndarray, "batch vertices 3"], pelvis_cam_m: Float[np.ndarray, "batch 3"]
) -> Float[np.ndarray, "batch vertices 3"]:
    """Bodies rotated by 90 degrees about the vertical axis through their pelvis, and moved in front of a side camera.
    Points nearer to the photo's camera are farther left."""
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
    """Each body from its side (the photo's camera is at the left), on a light background, with its shadow on a level
    floor under its lowest point. All views show 2.4 m from edge to edge, with the pelvis in the centre."""
    camera = Camera(size * SIDE_DISTANCE_M / SIDE_EXTENT_M, size / 2, size / 2, size, size)
    bodies = rotate_to_side(vertices_cam_m, pelvis_cam_m)
    frame = renderer.render(bodies, faces, zoom(camera, supersampling))

    def draw(index: int) -> np.ndarray:
        return overlay(_background(camera, bodies[index]), frame, color, 1.0, index)

    return np.array(parallel_map(draw, len(bodies)), np.uint8).reshape(-1, size, size, 3)


def panel(
    photo: UInt8[np.ndarray, "size size 3"] | None,
    overlaid: UInt8[np.ndarray, "size size 3"],
    side: UInt8[np.ndarray, "size size 3"],
    label: str,
    caption: str = "",
    color: Color = INK,
) -> UInt8[np.ndarray, "height width 3"]:
    """One hypothesis: photo (if given), overlay and side view in a row, a badge with its label in `color`, and a footer
    with the names of the views and the caption."""
    given = {"photo": photo, "overlay": overlaid, "side (camera at left)": side}
    views = {name: view for name, view in given.items() if view is not None}
    size = len(overlaid)
    footer, step = max(size // 9, 14), size + GUTTER
    canvas = Image.new("RGB", (step * len(views) - GUTTER, size + footer), _rgb(PAPER))
    draw = ImageDraw.Draw(canvas)
    for index, (name, view) in enumerate(views.items()):
        canvas.paste(Image.fromarray(view), (index * step, 0))
        start = (index * step + GUTTER, size + footer / 2)
        draw.text(start, name, _rgb(INK), _font(footer * 0.6), anchor="lm")
    draw.text(
        (canvas.width - GUTTER, size + footer / 2), caption, _rgb(INK), _font(footer * 0.6), anchor="rm"
    )
    _badge(draw, label, size // 5, color)
    return np.asarray(canvas)


def montage(
    panels: Sequence[UInt8[np.ndarray, "height width 3"]], columns: int
) -> UInt8[np.ndarray, "montage_height montage_width 3"]:
    """Panels of one size in rows of `columns`, on a light background."""
    height, width = panels[0].shape[:2]
    rows, gap = math.ceil(len(panels) / columns), 2 * GUTTER
    line = np.tile(np.array(_rgb(PAPER), np.uint8), (1, columns * (width + gap) + gap, 1))
    sheet = np.repeat(line, rows * (height + gap) + gap, axis=0)
    for index, picture in enumerate(panels):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def score_color(score: float | None) -> Color:
    """A colour from red (0) through sand (50) to teal (100); grey for None."""
    if score is None:
        return (0.55, 0.55, 0.55)
    stops = np.array([[0.76, 0.33, 0.27], [0.86, 0.72, 0.45], [0.16, 0.56, 0.54]])
    red, green, blue = (float(np.interp(score, (0, 50, 100), channel)) for channel in stops.T)
    return (red, green, blue)


def score_legend(width: int) -> UInt8[np.ndarray, "height {width} 3"]:
    """The colours of scores as a bar from 0 to 100, and the grey of a missing score, with their names."""
    height = LEGEND_PX
    canvas = Image.new("RGB", (width, height), _rgb(PAPER))
    draw, font = ImageDraw.Draw(canvas), _font(height * 0.5)
    bar = np.array([_rgb(score_color(score)) for score in np.linspace(0, 100, LEGEND_BAR_PX)], np.uint8)
    left, top, bottom = 3 * height, height // 4, height - height // 4
    canvas.paste(Image.fromarray(np.tile(bar, (bottom - top, 1, 1))), (left, top))
    middle, right = height / 2, left + LEGEND_BAR_PX
    draw.text((left - GUTTER, middle), "score 0", _rgb(INK), font, anchor="rm")
    draw.text((right + GUTTER, middle), "100 (best)", _rgb(INK), font, anchor="lm")
    grey = right + 4 * height
    draw.rectangle((grey, top, grey + height, bottom), fill=_rgb(score_color(None)))
    draw.text((grey + height + GUTTER, middle), "no score", _rgb(INK), font, anchor="lm")
    return np.asarray(canvas)


def _background(
    camera: Camera, body_m: Float[np.ndarray, "vertices 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A light background with a slightly darker floor and the soft shadow of the body."""
    floor_m = float(body_m[:, 1].max())
    horizon = camera.cy_px + camera.focal_px * floor_m / (SIDE_DISTANCE_M + FLOOR_DEPTH_M)
    floor = np.clip((np.arange(camera.height)[:, None, None] + 0.5 - horizon) / 2, 0, 1)
    paper = np.asarray(PAPER) * (1 - 0.09 * floor)
    image = np.repeat(_to_bytes(paper), camera.width, axis=1)
    top, left, shadow = _shadow(camera, body_m, floor_m)
    rows, columns = slice(top, top + len(shadow)), slice(left, left + shadow.shape[1])
    image[rows, columns] = _to_bytes(paper[rows] * (1 - 0.4 * shadow[..., None]))
    return image


def _shadow(
    camera: Camera, body_m: Float[np.ndarray, "vertices 3"], floor_m: float
) -> tuple[int, int, Float[np.ndarray, "rows columns"]]:
    """The first row and column of the shadow, and its darkness, 0 to 1. It is drawn from the vertices projected to the
    floor, which are denser than pixels."""
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
