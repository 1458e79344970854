"""The denoisers: (noisy body parameters, keypoint feedback, time, condition) -> the scheduler's prediction target.

Both use adaptive layer norm that starts at zero (DiT, Peebles and Xie, ICCV 2023, arXiv 2212.09748), and compute once
per group what depends only on the image and the time.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.policy.parametrization import ROTATION_SIZE, VECTOR_SIZE
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS

__all__ = ["LAYOUTS", "Denoiser", "TokenDenoiser", "sinusoids"]


def sinusoids(timesteps: Int[Tensor, "*batch"], frequencies: int) -> Float[Tensor, "*batch {2*frequencies}"]:
    """Of the step index (Vaswani et al., 2017)."""
    steps = torch.arange(frequencies, device=timesteps.device, dtype=torch.float32)
    angles = timesteps[..., None].float() * torch.exp(-math.log(10_000.0) * steps / frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def time_encoder(frequencies: int, width: int) -> nn.Sequential:
    """From `sinusoids` to the width of a denoiser."""
    return nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))


def feature_encoder(size: int, width: int) -> nn.Sequential:
    """From the features of a person to the width of a denoiser."""
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))


class ModulatedBlock(nn.Module):
    def __init__(self, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.inner = nn.Sequential(
            nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width)
        )
        nn.init.zeros_(self.modulation.weight)  # every block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, hidden: Float[Tensor, "*rows width"], context: Float[Tensor, "*context width"]
    ) -> Float[Tensor, "*rows width"]:
        shift, scale, gate = self.modulation(context).chunk(3, dim=-1)
        return hidden + gate * self.inner(self.norm(hidden) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """A residual MLP. The condition is the features of a person followed by an initial estimate of x0, which has an
    input layer of its own that starts at zero.

    """

    def __init__(self, dim: int, condition_size: int, width: int, depth: int) -> None:
        super().__init__()
        self.dim = dim
        self.frequencies = width // 4
        self.from_x = nn.Linear(dim, width)
        self.from_time = time_encoder(self.frequencies, width)
        self.from_features = feature_encoder(condition_size - dim, width)
        self.from_estimate = nn.Linear(dim, width)
        self.from_feedback = nn.Linear(dim, width, bias=False)
        for layer in (self.from_estimate, self.from_feedback):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.from_estimate.bias)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        self.reset_head()

    def reset_head(self) -> None:
        """Predict zero, as before training: the policy then samples from a Gaussian about its initial estimate."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        feedback: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """The prediction for G hypotheses and K times per image."""
        features, estimate = condition[:, : -self.dim], condition[:, -self.dim :]
        times = sinusoids(timesteps, self.frequencies).to(self.from_x.weight.dtype)
        image = self.from_features(features) + self.from_estimate(estimate)
        context = image[:, None] + self.from_time(times)
        context = nn.functional.silu(context)[:, None]  # batch 1 steps width
        hidden = self.from_x(noisy) + self.from_feedback(feedback)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.head(hidden)


PARTS = (
    ("pelvis", "spine1", "spine2", "spine3"),
    ("neck", "head"),
    ("left_hip", "left_knee", "left_ankle", "left_foot"),
    ("right_hip", "right_knee", "right_ankle", "right_foot"),
    ("left_collar", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    ("right_collar", "right_shoulder", "right_elbow", "right_wrist", "right_hand"),
)
Layout = tuple[tuple[int, ...], ...]  # for each token, the entries of the vector that it holds


def _rotation(joint: int) -> tuple[int, ...]:
    return tuple(range(6 * joint, 6 * joint + 6))


def _by_joints(groups: tuple[tuple[int, ...], ...]) -> Layout:
    """Rotations by groups of joints; the first group also holds shape and camera."""
    tokens = [sum((_rotation(joint) for joint in group), ()) for group in groups]
    return (tokens[0] + tuple(range(ROTATION_SIZE, VECTOR_SIZE)), *tokens[1:])


def _by_columns() -> Layout:
    """The vector holds a rotation row by row, two numbers per row: a column is every second number."""
    columns = [_rotation(joint)[column::2] for joint in range(NUM_JOINTS) for column in (0, 1)]
    camera = ROTATION_SIZE + NUM_BETAS
    shape = tuple(range(ROTATION_SIZE, camera))
    return (*columns, shape, *((entry,) for entry in range(camera, VECTOR_SIZE)))


LAYOUTS: dict[str, Layout] = {
    "parts": _by_joints(tuple(tuple(map(JOINT_NAMES.index, names)) for names in PARTS)),
    "joints": _by_joints(tuple((joint,) for joint in range(NUM_JOINTS))),
    "columns": _by_columns(),
}


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width)
        )
        nn.init.zeros_(self.modulation.weight)  # every block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, hidden: Float[Tensor, "*rows tokens width"], context: Float[Tensor, "*context width"]
    ) -> Float[Tensor, "*rows tokens width"]:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(context).chunk(6, dim=-1)
        hidden = hidden + gate * self._attend(self.norm(hidden) * (1 + scale) + shift)
        return hidden + gate2 * self.inner(self.norm(hidden) * (1 + scale2) + shift2)

    def _attend(self, hidden: Float[Tensor, "*rows tokens width"]) -> Float[Tensor, "*rows tokens width"]:
        split = self.qkv(hidden).flatten(0, -3).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.transpose(1, 3).unbind(2)  # rows heads tokens channels
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.mixed(mixed.reshape(hidden.shape))


class TokenDenoiser(nn.Module):
    """A transformer over parts of the body. Each token holds a slice of the noisy vector and the same slices of the
    keypoint feedback and the initial estimate.

    | layout    | tokens | one token holds                                                                       |
    |-----------|--------|---------------------------------------------------------------------------------------|
    | `parts`   | 6      | a leg, an arm, the trunk, the head; shape and camera go with the trunk                |
    | `joints`  | 24     | one joint's rotation; shape and camera go with the pelvis                             |
    | `columns` | 52     | one of the two columns of a rotation; the shape; one number of the camera             |

    ScoreHypo (CVPR 2024) also has 52 tokens, width 512, 6 layers of 8 heads and about 28 M parameters, but its tokens
    are 29 joints and 23 twists of an analytic solver. Left out: its attention to a grid of image features. The
    condition here is one vector, so a group of any size needs one encoding of the image.

    Raises ValueError for an unknown layout or a width that is not a multiple of 4 times the heads.
    """

    places: Int[Tensor, "tokens slots"]
    homes: Int[Tensor, "dim"]

    def __init__(self, condition_size: int, width: int, depth: int, heads: int, layout: str) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"no token layout is called {layout!r}; there are {', '.join(LAYOUTS)}")
        if width % (4 * heads):
            raise ValueError(f"width {width} is not a multiple of 4 times {heads} heads")
        self.dim, self.frequencies = VECTOR_SIZE, width // 4
        places, homes = _places(LAYOUTS[layout])
        tokens, slots = places.shape
        self.register_buffer("places", places)
        self.register_buffer("homes", homes)
        self.from_x = nn.Parameter(torch.randn(tokens, slots, width) / slots**0.5)
        self.from_estimate = nn.Parameter(torch.zeros(tokens, slots, width))
        self.from_feedback = nn.Parameter(torch.zeros(tokens, slots, width))
        self.token = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.from_time = time_encoder(self.frequencies, width)
        self.from_features = feature_encoder(condition_size - VECTOR_SIZE, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(torch.zeros(tokens, slots, width))
        self.bias = nn.Parameter(torch.zeros(VECTOR_SIZE))

    def reset_head(self) -> None:
        """Predict zero, as before training: the policy then samples from a Gaussian about its initial estimate."""
        nn.init.zeros_(self.head)
        nn.init.zeros_(self.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        feedback: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """The prediction for G hypotheses and K times per image."""
        features, estimate = condition[:, : -self.dim], condition[:, -self.dim :]
        times = self.from_time(sinusoids(timesteps, self.frequencies).to(self.token.dtype))
        context = F.silu(self.from_features(features)[:, None] + times)[
            :, None, :, None
        ]  # batch 1 steps 1 width
        image = torch.einsum("bts,tsw->btw", self._slots(estimate), self.from_estimate) + self.token
        hidden = image[:, None, None]
        for vector, weight in ((noisy, self.from_x), (feedback, self.from_feedback)):
            hidden = hidden + torch.einsum("bgkts,tsw->bgktw", self._slots(vector), weight)
        for block in self.blocks:
            hidden = block(hidden, context)
        slots = torch.einsum("bgktw,tsw->bgkts", self.norm(hidden), self.head)
        return slots.flatten(-2)[..., self.homes] + self.bias

    def _slots(self, vector: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch tokens slots"]:
        return F.pad(vector, (0, 1))[..., self.places]  # index VECTOR_SIZE, of an empty slot, reads zero


def _places(layout: Layout) -> tuple[Int[Tensor, "tokens slots"], Int[Tensor, "dim"]]:
    """The entry of the vector that each slot of each token holds (VECTOR_SIZE: none), and the slot of each entry."""
    slots = max(map(len, layout))
    places = torch.full((len(layout), slots), VECTOR_SIZE)
    homes = torch.empty(VECTOR_SIZE, dtype=torch.long)
    for row, entries in enumerate(layout):
        places[row, : len(entries)] = torch.tensor(entries)
        homes[list(entries)] = row * slots + torch.arange(len(entries))
    return places, homes
