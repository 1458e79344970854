"""Errors by joint: the means, the chart, and the colours of the body."""

import io

import numpy as np
import pytest
from PIL import Image

from eval.benchmark.measures.joint_errors import joint_errors
from eval.benchmark.protocol import Report
from eval.report.run import ReportData, draw_heat_maps, occlusion_chart, write_report
from hmr.body.model import load_body
from hmr.render import load_renderer
from hmr.types import JOINT_NAMES

NAN = float("nan")
WRIST, KNEE = JOINT_NAMES.index("left_wrist"), JOINT_NAMES.index("left_knee")


def report(wrist: tuple[list[float], list[float]]) -> Report:
    """Two images: the visible and the hidden error of the left wrist; the other joints are visible and 10 mm off."""
    values = {
        f"error_{where}_mm": {
            name: np.full(2, 10.0 if where == "visible" else NAN) for name in JOINT_NAMES[1:]
        }
        for where in ("visible", "hidden")
    }
    for where, errors in zip(values, wrist, strict=True):
        values[where]["left_wrist"] = np.array(errors)
    return Report(("a", "b"), values, ())


def test_means_over_images_and_seeds_by_visibility():
    found = joint_errors([report(([20.0, NAN], [NAN, 60.0])), report(([30.0, NAN], [NAN, NAN]))])
    assert (found.visible_mm[WRIST], found.hidden_mm[WRIST]) == (25.0, 60.0)
    assert found.all_mm[WRIST] == pytest.approx((20 + 60 + 30) / 3)
    assert found.all_mm[KNEE] == 10.0
    assert np.isnan(found.hidden_mm[KNEE])
    assert found.all_mm[0] == 0.0  # the pelvis


def test_the_chart_has_the_joints_that_were_seen_and_hidden():
    chart = occlusion_chart({"base": joint_errors([report(([20.0, NAN], [NAN, 60.0]))])})
    (line,) = chart.lines
    assert (line.x, line.y, line.labels) == ([20.0], [60.0], ["left wrist"])


def test_one_scale_for_all_variants_and_the_largest_errors_are_darkest(tmp_path):
    small, large = np.full(24, 50.0), np.full(24, 50.0)
    large[JOINT_NAMES.index("left_hand")] = large[WRIST] = 150.0
    maps = draw_heat_maps({"base": large, "aligned": small}, load_body(), load_renderer())
    assert {each.limits_mm for each in maps} == {(50.0, 150.0)}
    assert maps[0].worst[:2] == [("left wrist", 150.0), ("left hand", 150.0)]
    worst, even = (np.asarray(Image.open(io.BytesIO(each.picture)).convert("L")).astype(int) for each in maps)
    dark = np.argwhere(worst < 100)
    width = worst.shape[1] // 2
    front, back = (dark[(dark[:, 1] >= side * width) & (dark[:, 1] < (side + 1) * width)] for side in (0, 1))
    assert len(front) > 50
    assert len(back) > 50
    assert (front[:, 1] > 0.5 * width).all()  # the left hand is at the right, seen from the front
    assert (back[:, 1] < 1.5 * width).all()
    assert not (even < 100).any()
    write_report(tmp_path / "report.html", ReportData("A run", {}, {}, heat_maps=maps))
    html = (tmp_path / "report.html").read_text()
    assert 'aria-label="Colours from 50 to 150 mm"' in html
    assert "Largest: left wrist 150, left hand 150" in html
    assert "Errors by joint" not in _page_without(tmp_path)


def test_unknown_joints_are_grey():
    values = np.full(24, 50.0)
    values[WRIST] = 80.0
    whole, partly = values.copy(), values.copy()
    partly[[JOINT_NAMES.index(name) for name in ("left_knee", "left_ankle", "left_foot")]] = NAN
    grey = []
    for each in (whole, partly):
        (drawn,) = draw_heat_maps({"base": each}, load_body(), load_renderer())
        assert drawn.limits_mm == (50.0, 80.0)
        pixels = np.asarray(Image.open(io.BytesIO(drawn.picture)).convert("RGB")).astype(int)
        grey.append(((np.ptp(pixels, axis=-1) < 16) & (pixels.max(axis=-1) < 200)).sum())
    assert grey[1] > grey[0] + 1000
    assert draw_heat_maps({}, load_body(), load_renderer()) == ()
    assert draw_heat_maps({"base": np.full(24, NAN)}, load_body(), load_renderer()) == ()


def _page_without(folder) -> str:
    write_report(folder / "other.html", ReportData("A run", {}, {}))
    return (folder / "other.html").read_text()
