"""Pictures that a person and a VLM can read: matte overlays, side views, labelled panels, crops.

Judges read matte clay better than gloss: one soft key light from the upper left, a sky and a floor of their
own brightness, a faint rim, and a darkening behind depth edges so that an arm stands off the trunk it crosses
(Luft et al., "Image enhancement by unsharp masking the depth buffer", SIGGRAPH 2006). Frames drawn larger
than the photo (`zoom`) give smooth outlines. Any renderer's frames will do. Left out: cast shadows
but for the one on the floor, textures, and any font but the one inside Pillow.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from hmr.types import Box, Camera, Frame, Renderer

__all__ = [
    "CLAY",
    "crop_image",
    "encode_jpeg",
    "encode_png",
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
OUTSIDE = 128  # grey of what lies beyond a photo's border

KEY_LIGHT = np.array([-0.45, -0.65, -0.61], np.float32)  # towards the light: left, above, in front
SKY = np.array([0.0, -1.0, 0.0], np.float32)
HALO_M = 0.08  # depth behind its surroundings at which a surface is darkest
SUPERSAMPLING = 2
SIDE_DISTANCE_M = 8.0
SIDE_EXTENT_M = 2.4  # what a side view shows from edge to edge: the same for all, so that bodies compare
FLOOR_DEPTH_M = 1.2  # how far the floor reaches behind the pelvis
GUTTER = 4


def zoom(camera: Camera, factor: int = SUPERSAMPLING) -> Camera:
    """The same view on `factor` times more pixels a side."""
    focal_px, cx_px, cy_px = (factor * value for value in (camera.focal_px, camera.cx_px, camera.cy_px))
    return Camera(focal_px, cx_px, cy_px, camera.width * factor, camera.height * factor)


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
    shaded, coverage = _reduced(_shade(frame, color, index), frame.mask[index], image.shape[:2])
    opacity = (alpha * coverage)[..., None]
    return _to_bytes(image.astype(np.float32) / 255 * (1 - opacity) + shaded * opacity)


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
) -> UInt8[np.ndarray, "batch {size} {size} 3"]:
    """Each body from its side (the photo's camera stands at the left), on paper, with its shadow on a level
    floor under its lowest point. One scale for all: 2.4 m from edge to edge, the pelvis in the middle."""
    camera = Camera(size * SIDE_DISTANCE_M / SIDE_EXTENT_M, size / 2, size / 2, size, size)
    views = np.empty((len(vertices_cam_m), size, size, 3), np.uint8)
    for index, body in enumerate(turn_sideways(vertices_cam_m, pelvis_cam_m)):
        floor_m = float(body[:, 1].max())
        flattened = np.stack([body[:, 0], np.full(len(body), floor_m), body[:, 2]], axis=-1)
        frame = renderer.render(np.stack([body, flattened]), faces, zoom(camera))
        views[index] = overlay(_stage(camera, floor_m, frame.mask[1]), frame, color, alpha=1.0)
    return views


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
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    sheet[:] = _rgb(PAPER)
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


def crop_image(
    image: UInt8[np.ndarray, "height width 3"], box: Box, size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """What `Camera.crop(box, size)` sees of the photo: a square box resampled bilinearly, with antialiasing
    when it shrinks; grey where the box reaches over the border."""
    margin = math.ceil(max((box.x1 - box.x0) / size, 1.0))  # the filter looks this far beyond the box
    left, top = math.floor(box.x0) - margin, math.floor(box.y0) - margin
    right, bottom = math.ceil(box.x1) + margin, math.ceil(box.y1) + margin
    window = Image.fromarray(_window(image, left, top, right, bottom))
    inner = (box.x0 - left, box.y0 - top, box.x1 - left, box.y1 - top)
    return np.asarray(window.resize((size, size), Image.Resampling.BILINEAR, inner, reducing_gap=2.0))


def _window(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A rectangle of whole pixels of the image, grey outside of it."""
    height, width = image.shape[:2]
    rows = np.clip([top, bottom], 0, height)
    columns = np.clip([left, right], 0, width)
    inside = image[slice(*rows), slice(*columns)]
    if inside.shape[:2] == (bottom - top, right - left):
        return inside
    window = np.full((bottom - top, right - left, 3), OUTSIDE, np.uint8)
    window[slice(*(rows - top)), slice(*(columns - left))] = inside
    return window


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    return _encode(image, "PNG")


def encode_jpeg(image: UInt8[np.ndarray, "height width 3"], quality: int = 90) -> bytes:
    return _encode(image, "JPEG", quality=quality)


def _encode(image: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def _shade(frame: Frame, color: Color, index: int) -> np.ndarray:
    """Clay under the studio's light, at the frame's own resolution."""
    shaded = np.zeros(frame.normals_cam[index].shape, np.float32)
    mask = frame.mask[index]
    if mask.any():
        seen = tuple(slice(line.min(), line.max() + 1) for line in np.nonzero(mask))
        normals, behind = frame.normals_cam[index][seen], _behind(frame.depth_m[index][seen], mask[seen])
        key = np.clip(0.5 + 0.5 * normals @ KEY_LIGHT, 0, 1) ** 1.5
        sky = 0.5 + 0.5 * normals @ SKY
        light = (0.32 + 0.72 * key + 0.24 * sky) * (1 - 0.45 * behind) * mask[seen]
        rim = 0.30 * (1 - np.clip(-normals[..., 2], 0, 1)) ** 4 * sky * mask[seen]
        shaded[seen] = np.asarray(color, np.float32) * light[..., None] + rim[..., None]
    return shaded


def _behind(depth_m: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """0 to 1: how far a pixel lies behind the mean depth of the body around it."""
    sigma = len(mask) / 40
    weight = gaussian_filter(mask.astype(np.float32), sigma, truncate=2.5)
    around_m = gaussian_filter(depth_m, sigma, truncate=2.5) / np.maximum(weight, 1e-6)
    return np.clip((depth_m - around_m) / HALO_M, 0, 1) * mask


def _reduced(shaded: np.ndarray, mask: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Colours and coverage averaged over the frame's pixels within each pixel of the photo."""
    factor = len(mask) // shape[0]
    if (shape[0] * factor, shape[1] * factor) != mask.shape:
        raise ValueError(f"a frame of {mask.shape} pixels is no whole multiple of a photo of {shape}")
    coverage = _pooled(mask, factor)
    total = _pooled(shaded, factor)  # `_shade` leaves black what no body covers
    return total / np.maximum(coverage, 1e-6)[..., None], coverage


def _pooled(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of `factor` x `factor` pixels."""
    picture = picture.astype(np.float32)
    offsets = [(row, column) for row in range(factor) for column in range(factor)]
    # a sum of strided views: six times as fast as a mean over the axes of small blocks
    total = np.zeros_like(picture[::factor, ::factor])
    for row, column in offsets:
        total += picture[row::factor, column::factor]
    return total / factor**2


def _stage(camera: Camera, floor_m: float, shadow: np.ndarray) -> np.ndarray:
    """A light page, its floor a shade darker, with a soft shadow on it (a mask larger than the page)."""
    page = np.full((camera.height, camera.width, 1), 1.0, np.float32)
    horizon = camera.cy_px + camera.focal_px * floor_m / (SIDE_DISTANCE_M + FLOOR_DEPTH_M)
    rows = np.arange(camera.height)[:, None, None] + 0.5
    page -= 0.09 * np.clip((rows - horizon) / 2, 0, 1)
    soft = gaussian_filter(shadow.astype(np.float32), len(shadow) / 100)
    page *= 1 - 0.4 * _pooled(soft, len(shadow) // camera.height)[..., None]
    return _to_bytes(np.asarray(PAPER, np.float32) * page)


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
