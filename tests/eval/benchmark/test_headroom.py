"""Recovered headroom of made-up reports."""

from __future__ import annotations

import numpy as np
import pytest

from eval.benchmark.headroom import recovered_headroom
from eval.benchmark.protocol import Report


def report(hyp0: float, averaged: float, min4: float, images: int = 3) -> Report:
    errors = {"hyp0": hyp0, "averaged": averaged, "min4": min4}
    columns = {name: np.full(images, float(value)) for name, value in errors.items()}
    return Report(tuple(f"image-{row}" for row in range(images)), {"mpjpe_mm": columns}, ())


def test_the_share_of_what_labels_gain():
    # base 200, 180, 120; labels gain 40, 20 and 10; the aligned policy gains 10, 20 and loses 5
    base, aligned, ceiling = report(200, 180, 120), report(190, 160, 125), report(160, 160, 110)
    found = recovered_headroom([base], [aligned], [ceiling], 4)
    assert {name: interval.mean for name, interval in found.items() if interval} == {
        "hyp0": pytest.approx(0.25), "averaged": pytest.approx(1.0), "min4": pytest.approx(-0.5),
    }  # fmt: skip
    same = recovered_headroom([base], [base], [ceiling], 4)
    assert [interval.mean for interval in same.values() if interval] == [0.0, 0.0, 0.0]


def test_there_is_no_share_of_no_headroom():
    base, worse = report(200, 180, 120), report(210, 170, 120)
    found = recovered_headroom([base], [base], [worse], 4)
    assert found["hyp0"] is None
    assert found["min4"] is None
    assert found["averaged"] is not None


def test_the_seeds_and_images_are_resampled_together():
    bases = [report(200, 180, 120), report(220, 180, 120)]
    aligned = [report(180, 180, 120), report(200, 180, 120)]
    ceilings = [report(160, 160, 110), report(140, 160, 110)]
    interval = recovered_headroom(bases, aligned, ceilings, 4)["hyp0"]
    assert interval is not None
    assert interval.mean == pytest.approx(20 / 60)  # of the means, not the mean of 1/2 and 1/4
    assert (interval.low, interval.high) == (pytest.approx(0.25), pytest.approx(0.5))
    with pytest.raises(ValueError, match="same images"):
        recovered_headroom(bases, [aligned[0], report(1, 1, 1, images=2)], ceilings, 4)
