"""The interactive charts of a report; the page draws them with plotly.js (`charts.js`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.benchmark.measures.joint_errors import JointErrors
from eval.report.run.data import Chart, Line
from hmr.types import JOINT_NAMES

__all__ = ["alignment_charts", "occlusion_chart", "paired_chart"]

Log = Sequence[Mapping[str, Any]]
CURVES = (  # title, y axis, metrics of rl.monitoring.metrics with the name of their line
    ("Training loss", "loss", {"loss": ""}),
    (
        "Denoising error by preference",
        "denoising error",
        {"denoise_loss/pos": "better", "denoise_loss/neg": "worse"},
    ),
    ("Divergence from the base policy", "KL estimate", {"kl": ""}),
    ("Clipped hypotheses", "share, 0 to 1", {"clip_ratio/region_mean": ""}),
    ("Likelihood ratio", "standard deviation", {"ratio/std": ""}),
    (
        "Spread of the samples",
        "spread (mm)",
        {"spread_visible_mm": "visible joints", "spread_occluded_mm": "occluded joints"},
    ),
)
CAPTIONS = {
    "Denoising error by preference": "In a healthy run the errors of better and worse hypotheses separate slowly.",
    "Spread of the samples": "A narrower spread alone lowers every mean error.",
}


def alignment_charts(logs: Mapping[str, Log]) -> tuple[Chart, ...]:
    """The learning curves of the logs of `rl.monitoring.training_log.read_logs`; the first word of a log's name is the
    variant. A metric of which no log has two values gets no chart."""
    charts = (
        Chart(
            title,
            CAPTIONS.get(title, ""),
            "training step",
            y_label,
            tuple(
                line
                for name, log in logs.items()
                for metric, part in metrics.items()
                if (line := _curve(log, metric, name, part)).x
            ),
        )
        for title, y_label, metrics in CURVES
    )
    return tuple(chart for chart in charts if any(len(line.x) > 1 for line in chart.lines))


def paired_chart(
    by_image: Mapping[str, Float[np.ndarray, " images"]], sample_ids: Sequence[str], metric: str
) -> Chart:
    """One point per image and variant: the error of `base` on the x axis, that of the variant on the y axis.

    by_image: variant -> errors in mm, in the order of sample_ids; one of the variants is `base`.
    """
    base = by_image["base"].tolist()
    return Chart(
        "Image by image",
        "One point per held-out image. Below the diagonal the error is lower than that of the base policy.",
        f"base, {metric} (mm)",
        "variant, the same (mm)",
        tuple(
            Line(name, name, base, values.tolist(), sample_ids)
            for name, values in by_image.items()
            if name != "base"
        ),
        is_scatter=True,
    )


def occlusion_chart(errors: Mapping[str, JointErrors]) -> Chart:
    """One point per joint and variant: its error where it is visible on the x axis, where hidden on the y axis."""

    def line(name: str, found: JointErrors) -> Line:
        known = np.isfinite(found.visible_mm) & np.isfinite(found.hidden_mm)
        known[0] = False  # the pelvis is the origin
        joints = [
            joint.replace("_", " ") for joint, is_known in zip(JOINT_NAMES, known, strict=True) if is_known
        ]
        return Line(name, name, found.visible_mm[known].tolist(), found.hidden_mm[known].tolist(), joints)

    return Chart(
        "Error against occlusion",
        "One point per joint: how far the mean of the hypotheses is off. Above the diagonal the joint is worse where "
        "an occluder hides it. The two are means over different images.",
        "where the joint is visible (mm)",
        "where it is hidden (mm)",
        tuple(line(name, found) for name, found in errors.items()),
        is_scatter=True,
        hover=("visible", "hidden"),
    )


def _curve(log: Log, metric: str, name: str, part: str) -> Line:
    """Values that are not finite are left out."""
    points = [(float(row["step"]), float(row[metric])) for row in log if metric in row and "step" in row]
    known = [(step, value) for step, value in points if math.isfinite(value)]
    label = ", ".join(word for word in (name, part) if word)
    key = name.partition(",")[0] or part
    return Line(label or metric, key, [step for step, _ in known], [value for _, value in known])
