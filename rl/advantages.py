"""Advantages of hypotheses from the scores of their group.

| here             | symbol | equation                                                                         |
|------------------|--------|----------------------------------------------------------------------------------|
| scores           | s_i    | higher is better, any unit; None where scoring failed                            |
| centred          | c_i    | s_i - mean_j s_j over the scored hypotheses of one image                         |
| scale            |        | `group`: std_j s_j; `batch`: root mean square of all groups' stds; `none`: 1     |
| distance         | d_i    | abs(x_i - mean_j x_j)^2 in the policy's coordinates, standardised in the group   |
| advantages       | A_i    | c_i / scale, changed by the two options below, then clamped to +- clip           |
| spread_neutral   |        | A_i - mean_j (A_j d_j) d_i                                                       |
| diversity_weight | w      | A_i + w std_j(A_j) d_i                                                           |

Group-relative advantages as in GRPO (arXiv 2402.03300, section 4.1.2), with the population form of the std; scores are
always centred within the group. The names of the scales are those of TRL's `scale_rewards`. TRL's `batch` is the std of
the raw rewards of one batch, which includes differences between images; here it is computed over the whole set and
within groups, so it does not depend on the batch size.

Hypotheses near the mean of a group tend to have the smaller errors, so a policy that learns from scores loses spread.
Weights 1 + A_i / tau change the variance of a group in proportion to mean_i (A_i d_i), to first order: `spread_neutral`
makes that zero, and `diversity_weight` rewards distance from the mean directly.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "ADVANTAGE_TYPES",
    "DEFAULT_ADVANTAGES",
    "ROUNDING",
    "AdvantageSettings",
    "Advantages",
    "Scores",
    "SetScale",
    "advantages_of",
    "group_advantages",
    "scale_of_set",
    "standardised_distance",
]

ADVANTAGE_TYPES = ("group", "batch", "none")
ROUNDING = 1e-9  # a std below this share of the largest score is a rounding error of equal scores
Scores = Sequence[float | None]  # of one group


@dataclass(frozen=True)
class Advantages:
    values: Float[Tensor, " group"]  # 0 wherever the mask is False
    mask: Bool[Tensor, " group"]  # True where the hypothesis takes part in the loss


@dataclass(frozen=True)
class AdvantageSettings:
    """`min_group_std` is relative to the median std of all groups, so it does not depend on the unit of the scores."""

    kind: str = "group"  # of ADVANTAGE_TYPES
    clip: float = 5.0
    min_group_std: float = 0.1
    diversity_weight: float = 0.0
    spread_neutral: bool = False


DEFAULT_ADVANTAGES = AdvantageSettings()


def score_std(scores: Scores) -> float | None:
    """Population standard deviation of the scores; None when fewer than two hypotheses have one."""
    known = torch.tensor([score for score in scores if score is not None], dtype=torch.float64)
    return known.std(correction=0).item() if len(known) > 1 else None


def group_advantages(
    scores: Scores, clip: float = 5.0, min_std: float = 0.0, scale: float | None = None
) -> Advantages:
    """Centred scores, divided by `scale` (None: the std of the group) and clamped to +-`clip`.

    A hypothesis without a score is masked. A whole group is masked if its std is at most `min_std` (in the unit of the
    scores) or a rounding error, because dividing by it would amplify the noise of the scorer.
    """
    scored = torch.tensor([score is not None for score in scores])
    values = torch.tensor([0.0 if score is None else score for score in scores], dtype=torch.float64)
    std = score_std(scores)
    if std is None or std <= max(min_std, ROUNDING * values.abs().max().item()):
        return Advantages(torch.zeros(len(values)), torch.zeros_like(scored))
    scaled = (values - values[scored].mean()) / (std if scale is None else scale)
    return Advantages((scaled.clamp(-clip, clip) * scored).float(), scored)


@dataclass(frozen=True)
class SetScale:
    """What the advantages of a group depend on beside its own scores."""

    min_std: float  # in the unit of the scores
    scale: float | None  # None: the std of the group


def scale_of_set(scores: Iterable[Scores], settings: AdvantageSettings = DEFAULT_ADVANTAGES) -> SetScale:
    """Of all groups of a set, of which 4 bytes each are kept."""
    known = array("f", (std for group in scores if (std := score_std(group)) is not None))
    stds = torch.tensor(known or [0.0])
    scale = {"group": None, "batch": stds.square().mean().sqrt().item(), "none": 1.0}[settings.kind]
    return SetScale(settings.min_group_std * stds.median().item(), scale)


def advantages_of(
    scores: Sequence[Scores],
    x0: Float[Tensor, "images group dim"],
    settings: AdvantageSettings = DEFAULT_ADVANTAGES,
    of_set: SetScale | None = None,
) -> tuple[Float[Tensor, "images group"], Bool[Tensor, "images group"]]:
    """Advantages of groups, and a mask that is True where a hypothesis takes part in the loss.

    of_set: of the set to which the groups belong; None if they are the whole set.
    """
    of_set = of_set or scale_of_set(scores, settings)
    groups = [group_advantages(group, math.inf, of_set.min_std, of_set.scale) for group in scores]
    values = torch.stack([group.values for group in groups])
    mask = torch.stack([group.mask for group in groups])
    if settings.spread_neutral or settings.diversity_weight:
        distance = standardised_distance(x0, mask)
        if settings.spread_neutral:
            values = values - _group_mean(values * distance, mask) * distance
        std = _group_mean(values.square(), mask).sqrt()
        values = values + settings.diversity_weight * std * distance
    return values.clamp(-settings.clip, settings.clip), mask


def standardised_distance(
    x0: Float[Tensor, "images group dim"], mask: Bool[Tensor, "images group"]
) -> Float[Tensor, "images group"]:
    """d_i, with mean 0 and std 1 over the scored hypotheses of an image; 0 where masked or if all are equal."""
    mean = _group_mean(x0, mask[..., None])
    squared = (x0 - mean).square().mean(dim=-1)
    centred = (squared - _group_mean(squared, mask)) * mask
    std = _group_mean(centred.square(), mask).sqrt()
    # a smaller std is a rounding error of equal distances
    return torch.where(std > 1e-6 * squared.amax(dim=1, keepdim=True), centred / std, 0.0)


def _group_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the scored hypotheses of a group (dimension 1, kept); 0 if there is none."""
    return (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp_min(1)
