"""Colour for synthetic scenes: clothes, light, backgrounds, things in the way, and the camera's own faults.

All of it is drawn from one numpy generator a scene and needs no file. Colours are linear RGB from 0 to 1.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["Textures", "background", "dress", "light", "occluder_mask", "photograph"]

SKIN_DARK, SKIN_LIGHT = np.array([0.24, 0.14, 0.09]), np.array([0.93, 0.77, 0.66])
HAIR = np.array(
    [[0.06, 0.05, 0.05], [0.23, 0.14, 0.08], [0.55, 0.4, 0.22], [0.6, 0.58, 0.55], [0.4, 0.16, 0.08]]
)
Image2D = Float[np.ndarray, "height width 3"]


class Textures:
    """A stock of smooth noise at three scales; a patch of it, tinted, passes for walls, grass, water and cloth.

    The stock is the same for every recipe and seed: making noise afresh for each patch took half of a scene's time.
    """

    def __init__(self, size: int, count: int = 24) -> None:
        rng = np.random.default_rng(20_26)
        self.size = size
        self.fields = np.stack([self._field(rng, 2 * size) for _ in range(count)])

    @staticmethod
    def _field(rng: np.random.Generator, side: int) -> Float[np.ndarray, "side side"]:
        field = np.zeros((side, side), dtype=np.float32)
        for cells in (6, 20, 90):
            noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
            field += rng.uniform() * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
        return field / field.std()

    def patch(self, rng: np.random.Generator) -> Image2D:
        field = self.fields[rng.integers(len(self.fields))]
        row, column = rng.integers(0, self.size, 2)
        window = field[row : row + self.size, column : column + self.size, None]
        contrast = np.abs(rng.normal(0, 0.12)) * (1 + rng.normal(0, 0.15, 3))  # light varies more than hue
        return np.clip(colour(rng) + window * contrast.astype(np.float32), 0, 1)


def colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """A colour of random lightness, mostly muted, now and then loud."""
    grey, chroma = rng.uniform(0.05, 0.95), rng.normal(0, 1, 3)
    return np.clip(grey + rng.uniform(0, 0.3) * (chroma - chroma.mean()), 0, 1).astype(np.float32)


def background(rng: np.random.Generator, textures: Textures, clutter: tuple[int, int]) -> Image2D:
    """A floor, a wall, and as many flat or textured shapes as `clutter` says."""
    size = textures.size
    picture = textures.patch(rng)
    horizon = int(rng.uniform(0.35, 0.95) * size)
    picture[horizon:] = textures.patch(rng)[horizon:]
    for _ in range(rng.integers(clutter[0], clutter[1] + 1)):
        mask = occluder_mask(rng, size, rng.uniform(0, size, 2), rng.uniform(0.05, 0.35) * size)
        picture[mask] = colour(rng) if rng.random() < 0.7 else textures.patch(rng)[mask]
    return picture


def occluder_mask(
    rng: np.random.Generator, size: int, center_px: Float[np.ndarray, "2"], extent_px: float
) -> Bool[np.ndarray, "height width"]:
    """A rectangle, an ellipse or a polygon about `center_px`, as large as `extent_px`, turned at random."""
    canvas = Image.new("L", (size, size), 0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
    if rng.random() < 0.4:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)  # an ellipse
    aspect, turn = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    ring = np.stack([np.cos(angles), aspect * np.sin(angles)], axis=-1) * extent_px / 2
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = [(float(x), float(y)) for x, y in ring @ rotation.T + center_px]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    return np.asarray(canvas) > 0


def dress(
    rng: np.random.Generator, regions: UInt8[np.ndarray, "vertices"], rest_m: Float[np.ndarray, "vertices 3"],
    names: tuple[str, ...],
) -> Float[np.ndarray, "vertices 3"]:  # fmt: skip
    """A colour a vertex: skin, hair, a top with long or short sleeves, trousers or shorts, shoes, maybe a pattern."""
    skin = SKIN_DARK + rng.random() * (SKIN_LIGHT - SKIN_DARK) + rng.normal(0, 0.02, 3)
    hair = HAIR[rng.integers(len(HAIR))] if rng.random() < 0.9 else skin
    top, bottom, shoes = colour(rng), colour(rng), 0.8 * colour(rng)
    if rng.random() < 0.1:
        bottom = top  # overalls, a dress
    sleeves = rng.random()
    colours = {
        "skin_head": skin, "hair": hair, "torso": top, "hand": skin, "foot": shoes,
        "upper_arm": top if sleeves > 0.15 else skin, "forearm": top if sleeves > 0.55 else skin,
        "upper_leg": bottom, "lower_leg": bottom if rng.random() < 0.7 else skin,
    }  # fmt: skip
    albedo = np.stack([colours[name] for name in names])[regions]
    clothed = np.isin(
        regions, [i for i, name in enumerate(names) if name in ("torso", "upper_arm", "upper_leg")]
    )
    return np.clip(albedo + clothed[:, None] * _pattern(rng, rest_m), 0, 1).astype(np.float32)


def _pattern(
    rng: np.random.Generator, rest_m: Float[np.ndarray, "vertices 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Stripes or blotches over the rest pose, or (half of the time) nothing."""
    contrast = rng.normal(0, 0.25, 3) if rng.random() < 0.5 else np.zeros(3)
    direction = rng.normal(0, 1, 3)
    phase = rest_m @ (direction / np.linalg.norm(direction)) * rng.uniform(15, 60)
    if rng.random() < 0.5:
        phase = (
            np.sin(rest_m[:, 0] * rng.uniform(10, 40))
            + np.sin(rest_m[:, 1] * rng.uniform(10, 40))
            + phase / 20
        )
    return np.sign(np.sin(phase))[:, None] * contrast


def light(rng: np.random.Generator, normals_cam: Image2D, albedo: Image2D) -> Image2D:
    """One key light of random colour and direction over a hemisphere of ambient light (Lambert)."""
    direction = rng.normal(0, 1, 3) * (1.0, 0.7, 0.7) + (0, -0.6, -0.8)  # mostly from above and before
    direction /= np.linalg.norm(direction)
    warmth = rng.normal(0, 0.06)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    ambient = rng.uniform(0.25, 0.65)
    sky = 0.85 - 0.15 * normals_cam[..., 1:2]  # y points down
    key = np.clip(normals_cam @ direction, 0, 1)[..., None] * rng.uniform(0.5, 1.0)
    return np.clip(albedo * (ambient * sky + key * tint), 0, 1).astype(np.float32)


def photograph(
    rng: np.random.Generator, picture: Image2D, blur_px: float, noise: float, quality: int
) -> tuple[UInt8[np.ndarray, "height width 3"], bytes]:
    """What the lens, the sensor and the file format make of it: the pixels, and the JPEG that holds them."""
    exposed = np.clip(picture * rng.uniform(0.6, 1.3), 0, 1) ** rng.uniform(0.75, 1.15)
    image = Image.fromarray((exposed * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur_px))
    pixels = np.asarray(image, dtype=np.float32) + rng.normal(0, noise * 255, picture.shape).astype(
        np.float32
    )
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB")), buffer.getvalue()
