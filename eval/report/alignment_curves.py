"""How an alignment went: what docs/alignment.md says to watch, a row a run or round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.charts import Chart, points_of, write_charts

__all__ = ["write_alignment_curves"]

Log = Sequence[Mapping[str, Any]]
WATCHED = (  # title, metrics of rl.metrics: the thin line's and the thick one's
    ("error: worse (thin), better (thick)", "denoise_loss/neg", "denoise_loss/pos"),
    ("kl", "", "kl"),
    ("clip_ratio/region_mean", "", "clip_ratio/region_mean"),
    ("spread, mm: hidden (thin), seen (thick)", "spread_occluded_mm", "spread_visible_mm"),
)
SIZE = (270.0, 190.0)


def write_alignment_curves(file: Path, logs: Mapping[str, Log]) -> Path:
    """Draw the logs of `rl.training_log.read_logs`, each under its name, which the row's first chart bears."""
    rows = [
        [_chart(name if place == 0 else "", log, place) for place in range(len(WATCHED))]
        for name, log in logs.items()
    ]
    return write_charts(file, rows, "Curves of alignment", SIZE)


def _chart(name: str, log: Log, place: int) -> Chart:
    title, thin, thick = WATCHED[place]
    return Chart(title, points_of(log, thin), points_of(log, thick), name)
