"""The colours of variants differ for people who cannot tell red from green, or blue from yellow."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from eval.report.run.page import FOLDER

# From "A physiologically-based model for simulation of color vision deficiency" by Machado and others (2009), for the
# severity 1, on linear RGB.
SIMULATIONS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
LEAST = 12.0  # distance in CIELAB; 2.3 is just noticeable


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    fx, fy, fz = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_the_conversion_to_lab_gives_known_values() -> None:
    assert lab(linear("#ffffff")) == pytest.approx([100.0, 0.0, 0.0], abs=0.1)
    assert lab(linear("#ff0000")) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("simulation", SIMULATIONS)
def test_variants_have_colours_that_differ(scheme: int, simulation: str) -> None:
    style = (FOLDER / "report.css.jinja").read_text()
    found = re.findall(r"--series-(\w+): (#[0-9a-f]{6});", style)
    colors = dict(found[5 * scheme : 5 * scheme + 5])
    assert len(colors) == 5
    seen = {name: lab(SIMULATIONS[simulation] @ linear(color)) for name, color in colors.items()}
    close = {
        (a, b): float(np.linalg.norm(seen[a] - seen[b]))
        for a, b in itertools.combinations(seen, 2)
        if np.linalg.norm(seen[a] - seen[b]) < LEAST
    }
    assert close == {}
