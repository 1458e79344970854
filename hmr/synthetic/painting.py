"""Appearance of synthetic scenes: clothes, light, backgrounds, occluders and camera effects.

Everything is drawn from one numpy generator per scene and needs no file, except backgrounds if a folder of photographs
is given. Colours are linear RGB from 0 to 1. The inner loops are in `pixels.py`.
"""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from hmr.images.crops import encode_jpeg
from hmr.images.photographs import PHOTO_SUFFIXES, read_photo
from hmr.synthetic import pixels
from hmr.synthetic.recipe import SceneRecipe

__all__ = ["Backdrops", "Textures", "background", "dress", "light", "photograph", "shape_mask"]

SKIN_DARK, SKIN_LIGHT = np.array([0.24, 0.14, 0.09]), np.array([0.93, 0.77, 0.66])
HAIR = np.array(
    [[0.06, 0.05, 0.05], [0.23, 0.14, 0.08], [0.55, 0.4, 0.22], [0.6, 0.58, 0.55], [0.4, 0.16, 0.08]]
)
RESPONSE_STEPS = 1024
Image2D = Float[np.ndarray, "height width 3"]
Mask2D = Bool[np.ndarray, "height width"]


class Textures:
    """Fields of smooth noise at three scales; a tinted patch of one is the texture of walls, grass, water and cloth.

    The fields are the same for every recipe and seed: new noise for each patch took half of the time of a scene.
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

    def paint(self, rng: np.random.Generator, picture: Image2D, mask: Mask2D, plain: float = 0.0) -> None:
        """Fill the mask with a random patch, of a single colour with probability `plain`."""
        field = self.fields[rng.integers(len(self.fields))]
        row, column = rng.integers(0, self.size, 2)
        window = field[row : row + self.size, column : column + self.size]
        contrast = abs(rng.normal(0, 0.12)) * (1 + rng.normal(0, 0.15, 3))  # brightness varies more than hue
        if rng.random() < plain:
            contrast *= 0
        pixels.fill(picture, mask, window, colour(rng), contrast.astype(np.float32))


class Backdrops:
    """Backgrounds from a folder of photographs without people, decoded on use; the last 64 are cached.

    Raises ValueError if the folder holds no photograph.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
        if not self.files:
            raise ValueError(f"{folder}: no photographs here ({', '.join(sorted(PHOTO_SUFFIXES))})")
        self._read = functools.lru_cache(maxsize=64)(self._load)

    def _load(self, file: Path) -> UInt8[np.ndarray, "height width 3"]:
        image = Image.fromarray(read_photo(file))
        scale = 2 * self.size / min(image.size)
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), reducing_gap=2.0)
        return np.asarray(image)

    def crop(self, rng: np.random.Generator) -> Image2D:
        """A random square of a random photograph, mirrored with probability 1/2."""
        image = self._read(self.files[rng.integers(len(self.files))])
        side = int(rng.uniform(0.5, 1.0) * min(image.shape[:2]))
        row, column = (int(rng.integers(0, extent - side + 1)) for extent in image.shape[:2])
        square = Image.fromarray(image[row : row + side, column : column + side])
        resized = np.asarray(square.resize((self.size, self.size), Image.Resampling.BILINEAR))
        mirrored = resized[:, ::-1] if rng.random() < 0.5 else resized
        return mirrored.astype(np.float32) / 255


def colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """A colour of random lightness, mostly of low saturation."""
    grey, chroma = rng.uniform(0.05, 0.95), rng.normal(0, 1, 3)
    return (grey + rng.uniform(0, 0.3) * (chroma - chroma.mean())).clip(0, 1).astype(np.float32)


def background(
    rng: np.random.Generator, textures: Textures, backdrops: Backdrops | None, clutter: tuple[int, int]
) -> Image2D:
    """A floor and a wall, or a photograph, with `clutter` (least, most) plain or textured shapes before it."""
    size = textures.size
    if backdrops is not None:
        picture = backdrops.crop(rng)
    else:
        picture = np.empty((size, size, 3), np.float32)
        floor = np.arange(size)[:, None] >= rng.uniform(0.35, 0.95) * size
        for part in (floor, ~floor):
            textures.paint(rng, picture, np.broadcast_to(part, (size, size)))
    for _ in range(rng.integers(clutter[0], clutter[1] + 1)):
        center = rng.uniform(0, size, 2)
        mask = shape_mask(rng, size, center, rng.uniform(0.05, 0.35) * size)
        textures.paint(rng, picture, mask, plain=0.7)
    return picture


def shape_mask(
    rng: np.random.Generator, size: int, center_px: Float[np.ndarray, "2"], extent_px: float
) -> Mask2D:
    """A randomly rotated ellipse, or a polygon of 4 to 7 points on it, of centre `center_px` and length `extent_px`."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
    if rng.random() < 0.4:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    aspect, turn = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    ring = np.stack([np.cos(angles), aspect * np.sin(angles)], axis=-1) * extent_px / 2
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mask = np.zeros((size, size), np.bool_)
    pixels.fill_convex(mask, ring @ rotation.T + center_px)
    return mask


def dress(
    rng: np.random.Generator, regions: UInt8[np.ndarray, "vertices"], rest_m: Float[np.ndarray, "vertices 3"],
    names: tuple[str, ...],
) -> Float[np.ndarray, "vertices 3"]:  # fmt: skip
    """A colour per vertex: skin, hair, top with long or short sleeves, trousers or shorts, shoes; maybe a pattern."""
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
    """Stripes or blotches over the rest pose, or zero with probability 1/2."""
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


def light(
    rng: np.random.Generator,
    picture: Image2D,
    mask: Mask2D,
    normals_cam: Image2D,
    albedo: Image2D,
    lamps: tuple[int, int],
) -> None:
    """Paint the body under ambient light and `lamps` (least, most) lamps, the first the strongest, mostly from above
    and in front (Lambert's law, no cast shadows)."""
    count = int(rng.integers(lamps[0], lamps[1] + 1))
    directions = rng.normal(0, 1, (count, 3)) * (1.0, 0.7, 0.7) + (0, -0.6, -0.8)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    warmth = rng.normal(0, 0.06, count)
    tint = np.stack([1 + warmth, np.ones(count), 1 - warmth], axis=-1)
    strength = rng.uniform(0.5, 1.0, (count, 1)) / np.arange(1, count + 1)[:, None]
    pixels.shade(picture, mask, normals_cam, albedo, rng.uniform(0.25, 0.65), directions, tint * strength)


def photograph(
    rng: np.random.Generator, picture: Image2D, recipe: SceneRecipe
) -> tuple[UInt8[np.ndarray, "height width 3"], bytes]:
    """Apply exposure, motion blur, lens blur, sensor noise and JPEG; returns the decoded pixels and the JPEG."""
    levels = np.linspace(0, 1, RESPONSE_STEPS)
    response = np.clip(levels * rng.uniform(0.6, 1.3), 0, 1) ** rng.uniform(0.75, 1.15)
    pixels.expose(picture, response.astype(np.float32))
    if rng.random() < recipe.motion_blur:
        picture = _convolve(picture, *_motion(rng.uniform(*recipe.motion_px), rng.uniform(0, math.pi)))
    offsets, weights = _gaussian(rng.uniform(*recipe.blur_px))
    picture = _convolve(_convolve(picture, offsets, weights), offsets[:, ::-1], weights)
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(*recipe.noise))
    exposed = np.empty(picture.shape, np.uint8)
    pixels.quantise(picture, grain, exposed)
    jpeg = encode_jpeg(exposed, int(rng.integers(recipe.jpeg_quality[0], recipe.jpeg_quality[1] + 1)))
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), jpeg


def _gaussian(sigma_px: float) -> tuple[Int[np.ndarray, "taps 2"], Float[np.ndarray, "taps"]]:
    """Taps of a Gaussian blur along the second axis."""
    reach = math.ceil(2.5 * sigma_px)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma_px) ** 2)
    return np.stack([np.zeros_like(steps), steps], axis=-1), weights / weights.sum()


def _motion(length_px: float, angle: float) -> tuple[Int[np.ndarray, "taps 2"], Float[np.ndarray, "taps"]]:
    """Taps of a straight motion blur."""
    steps = np.linspace(-0.5, 0.5, max(2, math.ceil(length_px))) * length_px
    offsets = np.rint(np.stack([steps * math.sin(angle), steps * math.cos(angle)], axis=-1)).astype(np.int64)
    return offsets, np.full(len(steps), 1 / len(steps))


def _convolve(
    picture: Image2D, offsets: Int[np.ndarray, "taps 2"], weights: Float[np.ndarray, "taps"]
) -> Image2D:
    """Convolution with repeated border pixels."""
    reach = int(np.abs(offsets).max())
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.empty_like(picture)
    pixels.convolve(padded, np.ascontiguousarray(offsets + reach), weights.astype(np.float32), out)
    return out
