"""Evaluations are cached by their key."""

from pathlib import Path

import numpy as np

from eval.benchmark.protocol import Report, ScoredGroup
from eval.benchmark.report_cache import cached_report, load_report

VALUES = {
    "mpjpe_mm": {"mean": np.array([10.0, 20.0])},
    "std_hidden_mm": {"left_hip": np.array([np.nan, 3.0])},
}
ERRORS = {"mpjpe_mm": np.array([9.0, 11.0])}
REPORT = Report(
    ("a", "b"), VALUES, (ScoredGroup("a", (1.0, None), ERRORS), ScoredGroup("b", (None, 0.5), ERRORS))
)


def test_a_saved_report_is_loaded_unchanged(tmp_path: Path) -> None:
    path, asked = tmp_path / "kept" / "report.npz", []

    def evaluate() -> Report:
        asked.append(1)
        return REPORT

    key = {"seed": 0, "alignment": {"max_steps": 3}}
    cached_report(path, key, evaluate)
    again = cached_report(path, key, evaluate)
    assert len(asked) == 1
    assert again.sample_ids == REPORT.sample_ids
    for metric, reductions in VALUES.items():
        for name, values in reductions.items():
            np.testing.assert_array_equal(again.values[metric][name], values)
    assert [group.scores for group in again.groups] == [(1.0, None), (None, 0.5)]
    np.testing.assert_array_equal(again.groups[1].errors_mm["mpjpe_mm"], ERRORS["mpjpe_mm"])


def test_a_report_with_another_key_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "report.npz"
    assert load_report(path, {"seed": 0}) is None
    cached_report(path, {"seed": 0}, lambda: REPORT)
    assert load_report(path, {"seed": 1}) is None
    silent = Report(("a",), {"mpjpe_mm": {"mean": np.array([1.0])}}, ())
    assert cached_report(path, {"seed": 1}, lambda: silent) is silent
    found = load_report(path, {"seed": 1})
    assert found is not None
    assert found.groups == ()
    assert load_report(path, {"seed": 0}) is None
