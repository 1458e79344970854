"""A weighted sum of several scores of the same group, as TRL's GRPOTrainer computes it (`rl.scorers.rewards`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from rl.advantages import ROUNDING

__all__ = ["ScoreList", "weighted_sum"]

ScoreList = list[float | None]


def weighted_sum(parts: Iterable[ScoreList], weights: Sequence[float], normalize: bool) -> ScoreList:
    """One score per hypothesis, None where every part is None. A missing score counts as the mean of its part.

    normalize: divide each part by its standard deviation in the group first.
    """
    scores = torch.tensor([[math.nan if s is None else s for s in row] for row in parts], dtype=torch.float64)
    filled = _standardised(scores) if normalize else _filled(scores)
    missing = scores.isnan().all(dim=0).tolist()
    mixed = (torch.tensor(weights, dtype=torch.float64)[:, None] * filled).sum(dim=0).tolist()
    return [None if absent else value for absent, value in zip(missing, mixed, strict=True)]


def _filled(scores: Float64[Tensor, "funcs group"]) -> Float64[Tensor, "funcs group"]:
    """Replaces missing scores by the mean of the others."""
    return torch.where(scores.isnan(), scores.nanmean(dim=1, keepdim=True).nan_to_num(0.0), scores)


def _standardised(scores: Float64[Tensor, "funcs group"]) -> Float64[Tensor, "funcs group"]:
    centred = (scores - scores.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    counts = (~scores.isnan()).sum(dim=1, keepdim=True).clamp(min=1)
    std = (centred.square().sum(dim=1, keepdim=True) / counts).sqrt()
    rounding = ROUNDING * scores.nan_to_num(0.0).abs().amax(dim=1, keepdim=True)
    return torch.where(std > rounding, centred / std, torch.zeros_like(centred))
