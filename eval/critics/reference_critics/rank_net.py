"""A RankNet over the tools' values: a baseline that combines the same evidence by a fitted network.

    s_i = f(z_i),   L = mean over pairs e_i < e_j of log(1 + exp(-(s_i - s_j)))      (Burges et al., ICML 2005)

z are the metrics of a hypothesis, standardised within its group (0, the group's mean, for a missing value); f is a
small MLP. It is fitted on labelled groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from agent.types import Evidence

__all__ = ["ToolRankNet", "standardised"]

STEPS, LEARNING_RATE, WEIGHT_DECAY = 400, 3e-3, 1e-2


def standardised(
    evidence: Sequence[Evidence], metrics: Sequence[str], group: int
) -> Float[Tensor, "group metrics"]:
    """Values by metric, zero mean and unit variance within the group; zeros where a metric is missing or constant."""
    columns = torch.zeros(group, len(metrics))
    for item in evidence:
        if item.metric not in metrics:
            continue
        values = torch.tensor([float("nan") if value is None else value for value in item.values])
        known = ~values.isnan()
        spread = values[known].std(correction=0) if known.any() else torch.tensor(0.0)
        if spread > 1e-9:
            columns[:, metrics.index(item.metric)] = torch.where(
                known, (values - values[known].mean()) / spread, 0.0
            )
    return columns


class ToolRankNet:
    """Scores hypotheses by their metrics; higher is better."""

    def __init__(self, metrics: int, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(metrics, 32), nn.SiLU(), nn.Linear(32, 1))

    def fit(
        self, values: Float[Tensor, "groups group metrics"], errors_mm: Float[Tensor, "groups group"]
    ) -> None:
        better = errors_mm[:, :, None] < errors_mm[:, None, :]
        optimizer = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            scores = self.network(values)[..., 0]
            margin = scores[:, :, None] - scores[:, None, :]
            loss = F.softplus(-margin)[better].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def score(self, values: Float[Tensor, "group metrics"]) -> list[float]:
        return self.network(values)[:, 0].tolist()
