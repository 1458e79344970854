"""Groups reweighted by scores: worked sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.critic.critic_bound import bound, reweighted, table
from common.progress import Tick
from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.groups import LabelledGroup
from hmr.metrics.errors import mpjpe_mm
from hmr.policy.policy import DiffusionPolicy
from tests.agent.critique_case import group, labelled, spoiled_group
from tests.agent.tools.tool_case import body

BODY = body()


def scored_group() -> LabelledGroup:
    case, hypotheses = labelled("a"), group(spoiled_group(seed=1, group=4))
    errors_mm = mpjpe_mm(BODY.joints(hypotheses.params), case.truth.joints_cam_m).numpy()
    return LabelledGroup(case, hypotheses, dict.fromkeys(ERROR_METRICS, errors_mm))


def test_a_perfect_critic_puts_all_weight_on_the_best() -> None:
    one = scored_group()
    errors_mm = one.errors_mm["mpjpe_mm"]
    row = reweighted(BODY, one, [-float(error) for error in errors_mm], temperature=0.01)
    assert row["SRCC"] == pytest.approx(1.0)
    for name in ("mean", "averaged", "pick"):
        assert row[name] == pytest.approx(errors_mm.min(), rel=1e-3)
    assert row["mean before"] == pytest.approx(errors_mm.mean(), rel=1e-5)


def test_equal_scores_give_equal_weights_and_a_missing_one_none() -> None:
    one = scored_group()
    row = reweighted(BODY, one, [3.0] * 4, temperature=0.3)
    assert (row["mean"], row["averaged"]) == pytest.approx(
        (row["mean before"], row["averaged before"]), rel=1e-5
    )
    assert np.isnan(row["SRCC"])
    known = torch.as_tensor(one.errors_mm["mpjpe_mm"])[:3]
    row = reweighted(
        BODY, one, [1.0, 2.0, 3.0, None], temperature=1e6
    )  # equal weights for all scored hypotheses
    assert row["mean"] == pytest.approx(float(known.mean()), rel=1e-5)


def test_an_unknown_critic_is_refused_before_sampling(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown critic shuffled"):
        bound(tiny_policy, ["noisy-truth:1", "shuffled"], 2, 4, 0.3, tmp_path / "out", _silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_true_detections_and_noisy_truth_use_the_same_groups(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    rows, scenes = bound(tiny_policy, ["true-detections", "noisy-truth:1"], 2, 4, 0.3, tmp_path, _silent)
    before = {critic: [row["mean before"] for row in images] for critic, images in rows.items()}
    assert before["true-detections"] == before["noisy-truth:1"]
    assert [row["SRCC"] for row in rows["noisy-truth:1"]] == pytest.approx([1.0, 1.0])
    assert len(scenes) == 16


def _silent(title: str, total: int) -> Tick:
    return lambda done, note="": None


def test_gains_are_in_per_cent_of_the_unweighted_group() -> None:
    row = {"SRCC": 0.5, "mean": 90.0, "averaged": 60.0, "pick": 45.0}
    rows = {"embedded": [row | {"mean before": 100.0, "averaged before": 80.0, "h_0": 50.0}] * 2}
    head, *_, line = table(rows).splitlines()
    assert head == "mean before 100.0, averaged before 80.0, h_0 50.0"
    assert line == "| embedded | 0.500 | 90.0 | 60.0 | 45.0 | +25.0 [+25.0, +25.0] | +10.0 [+10.0, +10.0] |"
