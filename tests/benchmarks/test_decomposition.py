"""The parts of an error: a body that is only too large, or only turned, has the error that says so."""

from __future__ import annotations

import math

import pytest
import roma
import torch

from benchmarks.alignment.decomposition import decompose

TRUE_M = torch.randn(3, 24, 3, generator=torch.Generator().manual_seed(0))
TURN = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.4, 0.0]))


@pytest.mark.parametrize(
    ("joints_m", "without"),
    [
        (1.2 * TRUE_M + 0.3, {"scaled", "PA-MPJPE"}),
        (TRUE_M @ TURN.mT + 0.3, {"turned", "PA-MPJPE"}),
        (1.2 * TRUE_M @ TURN.mT, {"PA-MPJPE"}),
        (TRUE_M + 0.3, {"MPJPE", "centred", "scaled", "turned", "PA-MPJPE"}),
    ],
)
def test_an_error_is_gone_where_its_part_is_taken_away(joints_m: torch.Tensor, without: set[str]):
    parts = decompose(joints_m, TRUE_M)
    size = parts.pop("size")
    assert {name for name, error_mm in parts.items() if error_mm.max() < 0.01} == without
    assert size.tolist() == pytest.approx(
        [100 * math.log(1.2) if "turned" not in without else 0.0] * 3, abs=1e-3
    )
