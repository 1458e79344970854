"""The learning curves of a pretraining run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.charts import Chart, points_of, write_charts

__all__ = ["write_alignment_curves", "write_curves"]

ABREAST = 3  # charts in a row: more are too wide for a page


def write_curves(run: Path) -> Path:
    """Draw `training.json` of a run (hmr.pretraining.training) into `curves.svg` beside it: a chart a stage, the training loss
    thin, the held-out loss thick. Raises FileNotFoundError where no run left its history."""
    if not (run / "training.json").exists():
        raise FileNotFoundError(f"{run} has no training.json: no pretraining ended there")
    history = json.loads((run / "training.json").read_text())
    stages = [_stage(name, stage["log"]) for name, stage in history.items() if name != "config"]
    rows = [stages[start : start + ABREAST] for start in range(0, len(stages), ABREAST)]
    return write_charts(run / "curves.svg", rows, "Learning curves")


def _stage(name: str, log: list[dict[str, Any]]) -> Chart:
    training, held_out = points_of(log, "loss"), points_of(log, "eval_loss")
    values = sorted(y for _, y in training)
    usual = values[: int(0.98 * (len(values) - 1)) + 1][-1:]  # the first steps would flatten all others
    high = max([*usual, *(y for _, y in held_out)], default=None)  # a short run may have logged none
    return Chart(f"{name}: training (thin), held out (thick)", training, held_out, "loss", high)


Log = Sequence[Mapping[str, Any]]
WATCHED = (  # title, metrics of rl.monitoring.metrics: the thin line's and the thick one's
    ("error: worse (thin), better (thick)", "denoise_loss/neg", "denoise_loss/pos"),
    ("kl", "", "kl"),
    ("clip_ratio/region_mean", "", "clip_ratio/region_mean"),
    ("spread, mm: hidden (thin), seen (thick)", "spread_occluded_mm", "spread_visible_mm"),
)
SIZE = (270.0, 190.0)


def write_alignment_curves(file: Path, logs: Mapping[str, Log]) -> Path:
    """Draw the logs of `rl.monitoring.training_log.read_logs`, each under its name, which the row's first chart bears."""
    rows = [
        [_chart(name if place == 0 else "", log, place) for place in range(len(WATCHED))]
        for name, log in logs.items()
    ]
    return write_charts(file, rows, "Curves of alignment", SIZE)


def _chart(name: str, log: Log, place: int) -> Chart:
    title, thin, thick = WATCHED[place]
    return Chart(title, points_of(log, thin), points_of(log, thick), name)
