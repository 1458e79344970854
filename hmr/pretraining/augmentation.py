"""Augmentation of training crops: rotation, zoom, crowds, occlusion, texture, blur and colour.

These are common augmentations (rotation, scale and colour: SPIN, arXiv 1909.12828; pasted occluders: Sarandi et al.,
arXiv 1808.09316, and PARE, arXiv 2104.08527; pasted people: Dwibedi et al., arXiv 1708.01642); the targets are
transformed with the image. They teach the network to predict a large deviation for hidden joints, and to recognise
people whose trunk is not upright.

All functions take a batch of `hmr.pretraining.crop_cache.CropDataset` after `as_floats`: "crops" is (batch, 3, side,
side) from 0 to 1, "mask" (batch, side, side) from 0 to 1. Positions are in crop units, -1 to 1 from border to border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "as_floats", "augment", "blur", "crowd", "jitter_colour", "occlude", "paste_person", "paste_texture", "rotate",
    "zoom",
]  # fmt: skip

Rows = dict[str, Tensor]

ROTATED, ROLL_DEG = 0.5, 30.0  # share of the rows; standard deviation of the camera's roll
ZOOMED, MIN_WINDOW = 0.5, 0.85  # share of the rows; smallest window, as a fraction of the crop
CROWDED, ATLAS_SIDE = 0.4, 4  # share of the rows; crops per side of the atlas
CROWD_SPAN, CROWD_LIGHT = (0.2, 0.9), (0.4, 1.1)  # window, as a fraction of the atlas; brightness
WITH_PERSON, PERSON_OFFSET, PERSON_SCALE = 0.3, (0.4, 1.1), (0.6, 1.2)  # share; offset in crop units
TEXTURED = 0.4  # share of the rows
ALPHA_RANGE = (0.3, 0.5)  # of the mask, in which alpha rises from 0 to 1; 0.5 is unknown and keeps its pixels
OCCLUSIONS, OCCLUDED = 2, 0.5  # number of passes; share of the rows that get an occluder in each
SHAPE_SIZE = (0.1, 0.35)  # half extents
MIN_VISIBLE = 0.35  # of the person's pixels; an occluder that would hide more is left out
BLURRED, KERNEL = 0.4, 9  # share of the rows; side in pixels
BLUR_PX = (0.3, 2.5)  # standard deviation along the motion; across it at most a third
GRAIN = 0.06  # largest standard deviation


def as_floats(rows: Rows) -> Rows:
    """Rows of `CropDataset` in the format of this module: floats from 0 to 1, channels first."""
    crops = rows["crops"].permute(0, 3, 1, 2)  # channels stay last in memory, which is faster on CPUs
    return rows | {"crops": crops.float() / 255, "mask": rows["mask"].float() / 255}


def augment(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """All augmentations. Without `generator`, torch's default is used, which the trainer seeds and restores."""
    rows = paste_person(crowd(paste_texture(rows, generator), generator), generator)
    rows = zoom(rotate(rows, generator), generator)
    for _ in range(OCCLUSIONS):
        rows = occlude(rows, generator)
    return jitter_colour(blur(rows, generator), generator)


def rotate(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Rotate some crops, as if the camera rolled about its optical axis."""
    chosen = _some(rows, ROTATED, generator)
    count, device = len(chosen), chosen.device
    angle = math.radians(ROLL_DEG) * _normal((count,), generator, device)
    roll = roma.rotvec_to_rotmat(F.pad(angle[:, None], (2, 0)))
    flat = roll[:, :2, :2]
    old = {name: column[chosen] for name, column in rows.items()}
    return _with(
        rows,
        chosen,
        crops=_rotated(old["crops"], flat),
        mask=_rotated(old["mask"][:, None], flat)[:, 0],
        keypoints=old["keypoints"] @ flat.mT,
    )


def zoom(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Replace some crops by a window of them, as if the detected box were smaller and shifted."""
    chosen = _some(rows, ZOOMED, generator)
    count, device = len(chosen), chosen.device
    size = MIN_WINDOW + (1 - MIN_WINDOW) * _uniform((count,), generator, device)
    offset = (2 * _uniform((count, 2), generator, device) - 1) * (1 - size[:, None])
    old = {name: column[chosen] for name, column in rows.items()}
    return _with(
        rows,
        chosen,
        crops=_window(old["crops"], offset, size),
        mask=_window(old["mask"][:, None], offset, size)[:, 0],
        keypoints=(old["keypoints"] - offset[:, None]) / size[:, None, None],
    )


def crowd(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Replace the background of some people by a window of an atlas of the batch's crops."""
    chosen = _some(rows, CROWDED, generator)
    images, mask = rows["crops"][chosen], rows["mask"][chosen]
    count, side, device = len(chosen), images.shape[-1], images.device
    atlas = _atlas(rows["crops"], generator).expand(count, -1, -1, -1)
    size = _between(CROWD_SPAN, (count,), generator, device)
    offset = (2 * _uniform((count, 2), generator, device) - 1) * (1 - size[:, None])
    grid = _grid(side, device) * size[:, None, None, None] + offset[:, None, None]
    background = F.grid_sample(atlas, grid, padding_mode="border", align_corners=False)
    background = background * _between(CROWD_LIGHT, (count, 1, 1, 1), generator, device)
    return _with(rows, chosen, crops=torch.lerp(background, images, _alpha(mask, side)))


def paste_person(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Paste another person of the batch behind or before some people. Joints behind that person become invisible."""
    chosen = _some(rows, WITH_PERSON, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    count, side, device = len(chosen), images.shape[-1], images.device
    size = _between(PERSON_SCALE, (count,), generator, device).reciprocal()
    offset = _between(PERSON_OFFSET, (count,), generator, device)
    left = _uniform((count,), generator, device) < 0.5
    shift = torch.stack(
        [torch.where(left, -offset, offset), 0.2 * _normal((count,), generator, device)], dim=-1
    )
    others = rows["crops"].roll(1, dims=0)[chosen], rows["mask"].roll(1, dims=0)[chosen]
    people = _window(others[0], -shift * size[:, None], size)
    other_alpha = _window(_alpha(others[1], side), -shift * size[:, None], size, padding="zeros")
    hidden = F.interpolate(other_alpha, mask.shape[-2:], mode="area")[:, 0]
    before = _uniform((count,), generator, device) < 0.5
    before &= (mask * (1 - hidden)).sum(dim=(1, 2)) >= MIN_VISIBLE * mask.sum(dim=(1, 2))
    alpha = torch.where(before[:, None, None, None], other_alpha, other_alpha * (1 - _alpha(mask, side)))
    at_joints = F.grid_sample(other_alpha, keypoints[:, :, None], align_corners=False)[:, 0, :, 0]
    return _with(
        rows,
        chosen,
        crops=torch.lerp(images, people, alpha),
        mask=torch.where(before[:, None, None], mask * (1 - hidden), mask),
        visible=rows["visible"][chosen] & ~((at_joints > 0.5) & before[:, None]),
    )


def paste_texture(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Change colour and texture of a part of some people, as other clothes would."""
    chosen = _some(rows, TEXTURED, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    side = images.shape[-1]
    alpha = _alpha(mask, side) * _on_grid(_random_shapes(keypoints, generator), side)[:, None]
    shade = images / images.mean(dim=(2, 3), keepdim=True).clamp_min(0.1)  # keeps folds and light
    cloth = (_textures(images, generator) * shade.mean(dim=1, keepdim=True)).clamp_(0, 1)
    return _with(rows, chosen, crops=torch.lerp(images, cloth, alpha))


def occlude(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Put an occluder on a joint of some people, and remove the hidden part from mask and visible joints."""
    chosen = _some(rows, OCCLUDED, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    shapes = _random_shapes(keypoints, generator)
    remaining = mask.masked_fill(_on_grid(shapes, mask.shape[-1]), 0.0)
    placed = remaining.sum(dim=(1, 2)) >= MIN_VISIBLE * mask.sum(dim=(1, 2))
    covered = _on_grid(shapes, images.shape[-1]) & placed[:, None, None]
    return _with(
        rows,
        chosen,
        crops=torch.where(covered[:, None], _textures(images, generator), images),
        mask=torch.where(placed[:, None, None], remaining, mask),
        visible=rows["visible"][chosen] & ~(shapes.cover(keypoints) & placed[:, None]),
    )


def blur(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Motion blur and defocus: an anisotropic Gaussian for some crops."""
    chosen = _some(rows, BLURRED, generator)
    count, device = len(chosen), chosen.device
    low, high = BLUR_PX
    along = low + (high - low) * _uniform((count, 1, 1), generator, device)
    across = low + (along / 3 - low).clamp_min(0) * _uniform((count, 1, 1), generator, device)
    angle = math.pi * _uniform((count, 1, 1), generator, device)
    ys, xs = (_grid(KERNEL, device) * KERNEL / 2).flip(-1).unbind(-1)  # in pixels, from the centre
    parallel, normal = xs * angle.cos() + ys * angle.sin(), ys * angle.cos() - xs * angle.sin()
    kernel = (-((parallel / along).square() + (normal / across).square()) / 2).exp()
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    # one image per colour, with one channel and one kernel per crop
    stacked = rows["crops"][chosen].transpose(0, 1)
    padded = F.pad(stacked, [KERNEL // 2] * 4, mode="replicate")
    return _with(rows, chosen, crops=F.conv2d(padded, kernel[:, None], groups=count).transpose(0, 1))


def jitter_colour(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Random gain, colour cast and grain, in addition to those of the scenes."""
    images = rows["crops"]
    count, device = len(images), images.device
    gain = 1 + 0.2 * _normal((count, 1, 1, 1), generator, device)
    cast = 1 + 0.08 * _normal((count, 3, 1, 1), generator, device)
    grain = GRAIN * _uniform((count, 1, 1, 1), generator, device)
    noise = _normal(images.shape, generator, device)
    return rows | {"crops": noise.mul_(grain).add_(images * (gain * cast)).clamp_(0, 1)}


@dataclass(frozen=True)
class _Shapes:
    """One ellipse or box per row."""

    center: Float[Tensor, "batch 2"]
    half: Float[Tensor, "batch 2"]
    angle: Float[Tensor, "batch"]
    is_box: Bool[Tensor, "batch"]

    def cover(self, points: Float[Tensor, "*batch points 2"]) -> Bool[Tensor, "batch points"]:
        """Whether each point is inside the shape of its row. Points without batch dimension apply to all rows."""
        x, y = (points - self.center[:, None]).unbind(-1)
        cos, sin = self.angle.cos()[:, None], self.angle.sin()[:, None]
        along, across = (x * cos + y * sin) / self.half[:, :1], (y * cos - x * sin) / self.half[:, 1:]
        chebyshev = torch.maximum(along.abs(), across.abs())
        return torch.where(self.is_box[:, None], chebyshev, torch.hypot(along, across)) <= 1


def _random_shapes(keypoints: Float[Tensor, "batch 24 2"], generator: torch.Generator | None) -> _Shapes:
    """Shapes about a random joint of each row."""
    count, device = len(keypoints), keypoints.device
    joint = (_uniform((count,), generator, device) * keypoints.shape[1]).long()
    center = keypoints[torch.arange(count, device=device), joint]
    low, high = SHAPE_SIZE
    return _Shapes(
        center + 0.1 * _normal((count, 2), generator, device),
        low + (high - low) * _uniform((count, 2), generator, device),
        math.pi * _uniform((count,), generator, device),
        _uniform((count,), generator, device) < 0.5,
    )


def _textures(
    images: Float[Tensor, "batch 3 side side"], generator: torch.Generator | None
) -> Float[Tensor, "batch 3 side side"]:
    """For occluders and clothes: an enlarged corner of the next crop, or the mean colour of that corner."""
    count, device = len(images), images.device
    side, quarter = images.shape[-1], images.shape[-1] // 4
    row, column = (int(_uniform((), generator, device) < 0.5) * (side - quarter) for _ in range(2))
    corner = images.roll(1, dims=0)[..., row : row + quarter, column : column + quarter]
    enlarged = F.interpolate(corner, (side, side), mode="bilinear")
    plain = _uniform((count, 1, 1, 1), generator, device) < 0.4
    return torch.where(plain, enlarged.mean(dim=(2, 3), keepdim=True), enlarged)


def _atlas(
    images: Float[Tensor, "batch 3 side side"], generator: torch.Generator | None
) -> Float[Tensor, "1 3 wide wide"]:
    """ATLAS_SIDE x ATLAS_SIDE crops of the batch at half size, every second one mirrored."""
    drawn = (_uniform((ATLAS_SIDE**2,), generator, images.device) * len(images)).long()
    small = F.avg_pool2d(images[drawn], 2)
    small = torch.cat([small[::2].flip(-1), small[1::2]])
    return small.unflatten(0, (ATLAS_SIDE, ATLAS_SIDE)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]


def _alpha(mask: Float[Tensor, "batch mask mask"], side: int) -> Float[Tensor, "batch 1 {side} {side}"]:
    """Share of the person in each pixel, 0 to 1; 1 outside the photograph, where pixels do not change."""
    low, high = ALPHA_RANGE
    large = F.interpolate(mask[:, None], (side, side), mode="bilinear")
    return ((large - low) / (high - low)).clamp(0, 1)


def _rotate(flat: Float[Tensor, "batch 2 2"], points: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 2"]:
    return (flat @ points[..., None])[..., 0]


def _rotated(
    images: Float[Tensor, "batch channels side side"], flat: Float[Tensor, "batch 2 2"]
) -> Float[Tensor, "batch channels side side"]:
    """Corners outside the image repeat the border."""
    # row vectors times R: the inverse rotation
    grid = _grid(images.shape[-1], images.device).flatten(0, 1) @ flat
    return F.grid_sample(
        images, grid.unflatten(1, images.shape[-2:]), padding_mode="border", align_corners=False
    )


def _window(
    images: Float[Tensor, "batch channels side side"],
    offset: Float[Tensor, "batch 2"],
    size: Float[Tensor, "batch"],
    padding: str = "border",
) -> Float[Tensor, "batch channels side side"]:
    """The window of each image with centre `offset` and relative size `size`, at the image's resolution."""
    grid = _grid(images.shape[-1], images.device) * size[:, None, None, None] + offset[:, None, None]
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _grid(side: int, device: torch.device) -> Float[Tensor, "{side} {side} 2"]:
    """(x, y) of the pixel centres."""
    steps = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([xs, ys], dim=-1)


def _on_grid(shapes: _Shapes, side: int) -> Bool[Tensor, "batch {side} {side}"]:
    return shapes.cover(_grid(side, shapes.center.device).flatten(0, 1)).unflatten(1, (side, side))


def _some(rows: Rows, share: float, generator: torch.Generator | None) -> Int[Tensor, "chosen"]:
    """Random indices of about `share` of the rows, at least one."""
    count, device = len(rows["crops"]), rows["crops"].device
    drawn = _uniform((count,), generator, device)
    return (drawn <= drawn.min().clamp_min(share)).nonzero()[:, 0]


def _with(rows: Rows, chosen: Int[Tensor, "chosen"], **changed: Tensor) -> Rows:
    """The rows with new values at the indices `chosen`."""
    return rows | {name: rows[name].index_copy(0, chosen, value) for name, value in changed.items()}


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=generator, device=device)


def _between(
    low_high: tuple[float, float],
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    low, high = low_high
    return low + (high - low) * _uniform(shape, generator, device)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=device)
