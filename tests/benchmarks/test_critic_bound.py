"""Groups reweighed by scores: worked sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.critic_bound import bound, reweighed, table
from common.progress import Tick
from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.groups import LabelledGroup
from hmr.metrics.errors import mpjpe_mm
from hmr.policy.policy import DiffusionPolicy
from tests.agent.critique_case import group, labelled, spoiled_group
from tests.agent.tools.tool_case import body

BODY = body()


def judged_group() -> LabelledGroup:
    case, hypotheses = labelled("a"), group(spoiled_group(seed=1, group=4))
    errors_mm = mpjpe_mm(BODY.joints(hypotheses.params), case.truth.joints_cam_m).numpy()
    return LabelledGroup(case, hypotheses, dict.fromkeys(ERROR_METRICS, errors_mm))


def test_a_perfect_critic_gathers_the_group_about_its_best() -> None:
    one = judged_group()
    errors_mm = one.errors_mm["mpjpe_mm"]
    row = reweighed(BODY, one, [-float(error) for error in errors_mm], temperature=0.01)
    assert row["SRCC"] == pytest.approx(1.0)
    for name in ("mean", "middle", "pick"):
        assert row[name] == pytest.approx(errors_mm.min(), rel=1e-3)
    assert row["mean before"] == pytest.approx(errors_mm.mean(), rel=1e-5)


def test_equal_scores_change_nothing_and_a_missing_one_counts_for_nothing() -> None:
    one = judged_group()
    row = reweighed(BODY, one, [3.0] * 4, temperature=0.3)
    assert (row["mean"], row["middle"]) == pytest.approx((row["mean before"], row["middle before"]), rel=1e-5)
    assert np.isnan(row["SRCC"])
    known = torch.as_tensor(one.errors_mm["mpjpe_mm"])[:3]
    row = reweighed(BODY, one, [1.0, 2.0, 3.0, None], temperature=1e6)  # all that are scored weigh alike
    assert row["mean"] == pytest.approx(float(known.mean()), rel=1e-5)


def test_a_critic_that_is_none_is_refused_before_anything_is_drawn(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no critic here is called shuffled"):
        bound(tiny_policy, ["noisy-truth:1", "shuffled"], 2, 4, 0.3, tmp_path / "out", _silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_true_eyes_and_a_noisy_truth_are_bounded_on_the_same_groups(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    rows, scenes = bound(tiny_policy, ["true-detections", "noisy-truth:1"], 2, 4, 0.3, tmp_path, _silent)
    before = {critic: [row["mean before"] for row in images] for critic, images in rows.items()}
    assert before["true-detections"] == before["noisy-truth:1"]
    assert [row["SRCC"] for row in rows["noisy-truth:1"]] == pytest.approx([1.0, 1.0])
    assert len(scenes) == 16


def _silent(title: str, total: int) -> Tick:
    return lambda done, note="": None


def test_gains_are_told_in_per_cent_of_what_was_there_before() -> None:
    row = {"SRCC": 0.5, "mean": 90.0, "middle": 60.0, "pick": 45.0}
    rows = {"embedded": [row | {"mean before": 100.0, "middle before": 80.0, "h_0": 50.0}] * 2}
    head, *_, line = table(rows).splitlines()
    assert head == "mean before 100.0, middle before 80.0, h_0 50.0"
    assert line == "| embedded | 0.500 | 90.0 | 60.0 | 45.0 | +25.0 [+25.0, +25.0] | +10.0 [+10.0, +10.0] |"
