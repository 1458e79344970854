"""Other photographs of the same training crops: turned, nearer, in a crowd, partly hidden, blurred, in other light.

The usual augmentations of the field (turn, scale and colour: SPIN, arXiv 1909.12828; things pasted before the person:
Sarandi et al., arXiv 1808.09316, and PARE, arXiv 2104.08527; people cut out and pasted: Dwibedi et al., arXiv
1708.01642), with the truth moved along. They are what a network
needs in order to be unsure where it sees nothing, and to know people whose trunk is not upright.

All of it works on a batch of `hmr.pretraining.crop_cache.CropDataset` after `as_floats`: "crops" is (batch, 3, side, side) from
0 to 1, "mask" (batch, side, side) likewise. Positions are in crop units, -1 to 1 from border to border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from hmr.policy.parametrization import VECTOR_SIZE

__all__ = ["as_floats", "augment", "blur", "crowd", "hide", "join", "pattern", "recolour", "turn", "zoom"]

Rows = dict[str, Tensor]

TURNED, TURN_DEG = 0.5, 30.0  # share of the rows; standard deviation of the camera's roll
ZOOMED, CLOSEST = 0.5, 0.85  # share of the rows; the smallest window, as a fraction of the crop
CROWDED, ACROSS = 0.4, 4  # share of the rows; the atlas of a crowd shows so many crops across
CROWD_SPAN, CROWD_LIGHT = (0.2, 0.9), (0.4, 1.1)  # of the atlas, behind one person; of the crops' own light
JOINED, APART, OTHER_SIZE = 0.3, (0.4, 1.1), (0.6, 1.2)  # share of the rows; how far aside, in crop units
PATTERNED = 0.4
SOFT = (0.3, 0.5)  # values of the mask between which a cut-out person fades; unknown ground, .5, stays
THINGS, HIDDEN = 2, 0.5  # so many times, a thing stands before so large a share of the rows
THING_SIZE = (0.1, 0.35)  # half extents
MIN_VISIBLE = 0.35  # of the person's pixels; a thing that would hide more is left out
BLURRED, KERNEL = 0.4, 9
BLUR_PX = (0.3, 2.5)  # along the shutter's motion, standard deviation; across it at most a third
GRAIN = 0.06  # at most, of 1


def as_floats(rows: Rows) -> Rows:
    """The rows of `CropDataset` as everything here takes them: bytes become 0 to 1, colours come first."""
    crops = rows["crops"].permute(0, 3, 1, 2)  # channels last in memory, which CPUs convolve faster
    return rows | {"crops": crops.float() / 255, "mask": rows["mask"].float() / 255}


def augment(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """A new photograph of every row; `generator` None draws from torch's own, which the trainer seeds and resumes."""
    rows = join(crowd(pattern(rows, generator), generator), generator)
    rows = zoom(turn(rows, generator), generator)
    for _ in range(THINGS):
        rows = hide(rows, generator)
    return recolour(blur(rows, generator), generator)


def turn(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """The camera of some crops rolls about its optical axis, and the crop with it."""
    chosen = _some(rows, TURNED, generator)
    count, device = len(chosen), chosen.device
    angle = math.radians(TURN_DEG) * _normal((count,), generator, device)
    roll = roma.rotvec_to_rotmat(F.pad(angle[:, None], (2, 0)))
    flat = roll[:, :2, :2]
    old = {name: column[chosen] for name, column in rows.items()}
    global_orient, rest, pelvis = old["vector"].split([6, VECTOR_SIZE - 8, 2], dim=-1)
    lens, axis, size, center, side = old["geometry"].split([1, 2, 2, 2, 1], dim=-1)
    return _with(
        rows,
        chosen,
        crops=_turned(old["crops"], flat),
        mask=_turned(old["mask"][:, None], flat)[:, 0],
        vector=torch.cat(
            [(roll @ global_orient.unflatten(-1, (3, 2))).flatten(1), rest, _rotate(flat, pelvis)], dim=-1
        ),
        geometry=torch.cat([lens, axis, size, axis + _rotate(flat, center - axis), side], dim=-1),
        keypoints=old["keypoints"] @ flat.mT,
    )


def zoom(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """A window of some crops becomes the crop: as if the detector's box had been tighter and elsewhere."""
    chosen = _some(rows, ZOOMED, generator)
    count, device = len(chosen), chosen.device
    size = CLOSEST + (1 - CLOSEST) * _uniform((count,), generator, device)
    offset = (2 * _uniform((count, 2), generator, device) - 1) * (1 - size[:, None])
    old = {name: column[chosen] for name, column in rows.items()}
    pelvis = (old["vector"][:, -2:] - offset) / size[:, None]
    log_scale = old["vector"][:, -3:-2] - size[:, None].log()
    rest, center, side = old["geometry"].split([5, 2, 1], dim=-1)
    return _with(
        rows,
        chosen,
        crops=_window(old["crops"], offset, size),
        mask=_window(old["mask"][:, None], offset, size)[:, 0],
        vector=torch.cat([old["vector"][:, :-3], log_scale, pelvis], dim=-1),
        geometry=torch.cat([rest, center + offset * side / 2, side * size[:, None]], dim=-1),
        keypoints=(old["keypoints"] - offset[:, None]) / size[:, None, None],
    )


def crowd(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Some people stand before many others: their backdrop becomes a window on an atlas of the batch's crops."""
    chosen = _some(rows, CROWDED, generator)
    images, mask = rows["crops"][chosen], rows["mask"][chosen]
    count, side, device = len(chosen), images.shape[-1], images.device
    atlas = _atlas(rows["crops"], generator).expand(count, -1, -1, -1)
    size = _between(CROWD_SPAN, (count,), generator, device)
    offset = (2 * _uniform((count, 2), generator, device) - 1) * (1 - size[:, None])
    grid = _grid(side, device) * size[:, None, None, None] + offset[:, None, None]
    people = F.grid_sample(atlas, grid, padding_mode="border", align_corners=False)
    people = people * _between(CROWD_LIGHT, (count, 1, 1, 1), generator, device)
    return _with(rows, chosen, crops=torch.lerp(people, images, _cut_out(mask, side)))


def join(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Beside some people stands another of the batch, behind them or before them: then what is hidden is not seen."""
    chosen = _some(rows, JOINED, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    count, side, device = len(chosen), images.shape[-1], images.device
    size = _between(OTHER_SIZE, (count,), generator, device).reciprocal()
    apart = _between(APART, (count,), generator, device)
    left = _uniform((count,), generator, device) < 0.5
    aside = torch.stack(
        [torch.where(left, -apart, apart), 0.2 * _normal((count,), generator, device)], dim=-1
    )
    other = rows["crops"].roll(1, dims=0)[chosen], rows["mask"].roll(1, dims=0)[chosen]
    people = _window(other[0], -aside * size[:, None], size)
    theirs = _window(_cut_out(other[1], side), -aside * size[:, None], size, padding="zeros")
    hidden = F.interpolate(theirs, mask.shape[-2:], mode="area")[:, 0]
    before = _uniform((count,), generator, device) < 0.5
    before &= (mask * (1 - hidden)).sum(dim=(1, 2)) >= MIN_VISIBLE * mask.sum(dim=(1, 2))
    alpha = torch.where(before[:, None, None, None], theirs, theirs * (1 - _cut_out(mask, side)))
    at_joints = F.grid_sample(theirs, keypoints[:, :, None], align_corners=False)[:, 0, :, 0]
    return _with(
        rows,
        chosen,
        crops=torch.lerp(images, people, alpha),
        mask=torch.where(before[:, None, None], mask * (1 - hidden), mask),
        visible=rows["visible"][chosen] & ~((at_joints > 0.5) & before[:, None]),
    )


def pattern(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Prints, stripes and trousers of another cut: patches of other colour and texture on some people themselves."""
    chosen = _some(rows, PATTERNED, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    side = images.shape[-1]
    on_them = _cut_out(mask, side) * _on_grid(_things(keypoints, generator), side)[:, None]
    shade = images / images.mean(dim=(2, 3), keepdim=True).clamp_min(0.1)  # folds and light stay as they were
    cloth = (_textures(images, generator) * shade.mean(dim=1, keepdim=True)).clamp_(0, 1)
    return _with(rows, chosen, crops=torch.lerp(images, cloth, on_them))


def hide(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """A thing stands about a joint of some people; what it hides is no longer seen, in mask and keypoints alike."""
    chosen = _some(rows, HIDDEN, generator)
    images, mask, keypoints = rows["crops"][chosen], rows["mask"][chosen], rows["keypoints"][chosen]
    thing = _things(keypoints, generator)
    left = mask.masked_fill(_on_grid(thing, mask.shape[-1]), 0.0)
    placed = left.sum(dim=(1, 2)) >= MIN_VISIBLE * mask.sum(dim=(1, 2))
    covered = _on_grid(thing, images.shape[-1]) & placed[:, None, None]
    return _with(
        rows,
        chosen,
        crops=torch.where(covered[:, None], _textures(images, generator), images),
        mask=torch.where(placed[:, None, None], left, mask),
        visible=rows["visible"][chosen] & ~(thing.covers(keypoints) & placed[:, None]),
    )


def blur(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """A shutter that was too slow, a lens out of focus: an oblong Gaussian for some crops."""
    chosen = _some(rows, BLURRED, generator)
    count, device = len(chosen), chosen.device
    low, high = BLUR_PX
    along = low + (high - low) * _uniform((count, 1, 1), generator, device)
    across = low + (along / 3 - low).clamp_min(0) * _uniform((count, 1, 1), generator, device)
    turn = math.pi * _uniform((count, 1, 1), generator, device)
    ys, xs = (_grid(KERNEL, device) * KERNEL / 2).flip(-1).unbind(-1)  # whole pixels from the middle
    forward, aside = xs * turn.cos() + ys * turn.sin(), ys * turn.cos() - xs * turn.sin()
    kernel = (-((forward / along).square() + (aside / across).square()) / 2).exp()
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    stacked = rows["crops"][chosen].transpose(
        0, 1
    )  # each colour: a picture of `count` channels, a kernel each
    padded = F.pad(stacked, [KERNEL // 2] * 4, mode="replicate")
    return _with(rows, chosen, crops=F.conv2d(padded, kernel[:, None], groups=count).transpose(0, 1))


def recolour(rows: Rows, generator: torch.Generator | None = None) -> Rows:
    """Gain, cast and grain of other cameras; the scenes bring their own, this is on top."""
    images = rows["crops"]
    count, device = len(images), images.device
    gain = 1 + 0.2 * _normal((count, 1, 1, 1), generator, device)
    cast = 1 + 0.08 * _normal((count, 3, 1, 1), generator, device)
    grain = GRAIN * _uniform((count, 1, 1, 1), generator, device)
    noise = _normal(images.shape, generator, device)
    return rows | {"crops": noise.mul_(grain).add_(images * (gain * cast)).clamp_(0, 1)}


@dataclass(frozen=True)
class _Things:
    """One ellipse or box a row."""

    center: Float[Tensor, "batch 2"]
    half: Float[Tensor, "batch 2"]
    turn: Float[Tensor, "batch"]
    boxy: Bool[Tensor, "batch"]

    def covers(self, points: Float[Tensor, "*batch points 2"]) -> Bool[Tensor, "batch points"]:
        """Points of each row, or the same for all."""
        x, y = (points - self.center[:, None]).unbind(-1)
        cos, sin = self.turn.cos()[:, None], self.turn.sin()[:, None]
        along, aside = (x * cos + y * sin) / self.half[:, :1], (y * cos - x * sin) / self.half[:, 1:]
        farthest = torch.maximum(along.abs(), aside.abs())
        return torch.where(self.boxy[:, None], farthest, torch.hypot(along, aside)) <= 1


def _things(keypoints: Float[Tensor, "batch 24 2"], generator: torch.Generator | None) -> _Things:
    count, device = len(keypoints), keypoints.device
    joint = (_uniform((count,), generator, device) * keypoints.shape[1]).long()
    about = keypoints[torch.arange(count, device=device), joint]
    low, high = THING_SIZE
    return _Things(
        about + 0.1 * _normal((count, 2), generator, device),
        low + (high - low) * _uniform((count, 2), generator, device),
        math.pi * _uniform((count,), generator, device),
        _uniform((count,), generator, device) < 0.5,
    )


def _textures(
    images: Float[Tensor, "batch 3 side side"], generator: torch.Generator | None
) -> Float[Tensor, "batch 3 side side"]:
    """What things are painted with: a corner of the next picture, enlarged, or its one mean colour."""
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
    """ACROSS x ACROSS of the crops, at half their size, some in the mirror."""
    drawn = (_uniform((ACROSS**2,), generator, images.device) * len(images)).long()
    small = F.avg_pool2d(images[drawn], 2)
    small = torch.cat([small[::2].flip(-1), small[1::2]])
    return small.unflatten(0, (ACROSS, ACROSS)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]


def _cut_out(mask: Float[Tensor, "batch mask mask"], side: int) -> Float[Tensor, "batch 1 {side} {side}"]:
    """How much of each pixel is the person's own, 0 to 1; what lies beyond the photograph stays as it is."""
    low, high = SOFT
    large = F.interpolate(mask[:, None], (side, side), mode="bilinear")
    return ((large - low) / (high - low)).clamp(0, 1)


def _rotate(flat: Float[Tensor, "batch 2 2"], points: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 2"]:
    return (flat @ points[..., None])[..., 0]


def _turned(
    pictures: Float[Tensor, "batch channels side side"], flat: Float[Tensor, "batch 2 2"]
) -> Float[Tensor, "batch channels side side"]:
    """Corners that nobody photographed continue the border."""
    grid = _grid(pictures.shape[-1], pictures.device).flatten(0, 1) @ flat  # rows times R: the inverse turn
    return F.grid_sample(
        pictures, grid.unflatten(1, pictures.shape[-2:]), padding_mode="border", align_corners=False
    )


def _window(
    pictures: Float[Tensor, "batch channels side side"],
    offset: Float[Tensor, "batch 2"],
    size: Float[Tensor, "batch"],
    padding: str = "border",
) -> Float[Tensor, "batch channels side side"]:
    """The window about `offset` that spans `size` of each picture, at the picture's own resolution."""
    grid = _grid(pictures.shape[-1], pictures.device) * size[:, None, None, None] + offset[:, None, None]
    return F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)


def _grid(side: int, device: torch.device) -> Float[Tensor, "{side} {side} 2"]:
    """(x, y) of the pixel centres."""
    steps = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([xs, ys], dim=-1)


def _on_grid(thing: _Things, side: int) -> Bool[Tensor, "batch {side} {side}"]:
    return thing.covers(_grid(side, thing.center.device).flatten(0, 1)).unflatten(1, (side, side))


def _some(rows: Rows, share: float, generator: torch.Generator | None) -> Int[Tensor, "chosen"]:
    """Indices of about that share of the rows, at least one."""
    count, device = len(rows["crops"]), rows["crops"].device
    drawn = _uniform((count,), generator, device)
    return (drawn <= drawn.min().clamp_min(share)).nonzero()[:, 0]


def _with(rows: Rows, chosen: Int[Tensor, "chosen"], **changed: Tensor) -> Rows:
    """The rows with new values where they were chosen."""
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
