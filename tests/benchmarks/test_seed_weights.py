"""The error that seed weights are fitted on: worked examples."""

from __future__ import annotations

import pytest
import torch

from benchmarks.critic.seed_weights import in_plane_mpjpe_mm
from hmr.metrics.errors import mpjpe_mm

TRUTH_M = torch.tensor([0.0, 0.0, 4.0]) + torch.arange(72.0).reshape(24, 3) / 100
TRUTH_M[0] = torch.tensor([0.0, 0.0, 4.0])


def moved(*offset_m: float) -> torch.Tensor:
    return (TRUTH_M + torch.tensor(offset_m))[None]


def test_a_body_beside_the_person_is_wrong_by_its_distance() -> None:
    assert in_plane_mpjpe_mm(moved(0.3, 0.0, 0.0), TRUTH_M).item() == pytest.approx(300, rel=1e-4)
    assert mpjpe_mm(moved(0.3, 0.0, 0.0), TRUTH_M).item() == pytest.approx(0, abs=1e-2)


def test_a_wrong_depth_of_the_whole_body_is_no_error() -> None:
    assert in_plane_mpjpe_mm(moved(0.0, 0.0, 2.0), TRUTH_M).item() == pytest.approx(0, abs=1e-2)


def test_an_offset_counts_as_seen_at_the_true_depth() -> None:
    """.3 m at 6 m is seen where .2 m is at 4 m."""
    assert in_plane_mpjpe_mm(moved(0.3, 0.0, 2.0), TRUTH_M).item() == pytest.approx(200, rel=1e-4)
