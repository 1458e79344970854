"""The study in miniature: killed, taken up again, and asked a second time."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import benchmarks.alignment_study as study
import rl.preferences.build
import rl.rounds
from benchmarks.alignment_arms import ARMS, Arm
from benchmarks.alignment_study import Sizes, run_study
from benchmarks.alignment_table import StudyRuns, at_spread, markdown, to_json
from common.progress import Stage, Tick
from eval.benchmark.protocol import Report
from hmr.policy.policy import DiffusionPolicy

TINY = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.01, "warmup_steps": 0}
TRUTH = Arm({**TINY, "loss_type": "weighted"}, "noisy-truth:1", images=3, group_size=3)
SIZES = Sizes(test=2, samples=4, calibration=4, picks=False)


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tiny = {
        "one": TRUTH,
        "same groups": Arm({**TINY, "loss_type": "clip"}, "noisy-truth:1", images=2, group_size=3),
        "two rounds": Arm(TINY, "noisy-truth:0.5", images=2, group_size=3, rounds=2),
    }
    monkeypatch.setattr(study, "ARMS", tiny)
    return list(tiny)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of expensive functions."""
    counted: Counter[str] = Counter()
    for module, name in (
        (study, "evaluate_policy"), (study, "draw_split"), (rl.rounds, "align"), (rl.preferences.build, "score_group"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, _counting(counted, name, getattr(module, name)))
    return counted


def _counting(counted: Counter[str], name: str, call):
    def counting(*words, **more):
        counted[name] += 1
        return call(*words, **more)

    return counting


def _silent(title: str, total: int) -> Tick:
    return lambda done, note="": None


def _killed_at(words: str) -> Stage:
    def stage(title: str, total: int) -> Tick:
        def tick(done: int, note: str = "", /) -> None:
            if words in title:
                raise KeyboardInterrupt

        return tick

    return stage


@pytest.mark.slow
def test_a_killed_study_goes_on_and_a_second_run_does_nothing(
    tiny_policy: DiffusionPolicy, arms: list[str], calls: Counter[str], tmp_path: Path
) -> None:
    whole = run_study(tiny_policy, arms, [0], SIZES, tmp_path / "whole", _silent)
    # 3 images for `one`, of which `same groups` takes 2; `two rounds` has 2 of another critic
    assert calls["score_group"] == 3 + 2 + 2
    cut = tmp_path / "cut"
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_policy, arms, [0], SIZES, cut, _killed_at("seed 0, same groups: evaluating"))
    before = calls.copy()
    calls.clear()
    resumed = run_study(tiny_policy, arms, [0], SIZES, cut, _silent)
    assert to_json(resumed) == to_json(whole)
    assert before["align"] == 2
    assert calls["align"] == 4 - before["align"]  # one, one, and two rounds
    assert calls["score_group"] == 3 + 2 + 2 - before["score_group"]
    calls.clear()
    again = run_study(tiny_policy, arms, [0], SIZES, cut, _silent)
    assert markdown(again) == markdown(whole)
    assert calls["evaluate_policy"] == calls["align"] == calls["score_group"] == 0


@pytest.mark.slow
def test_seeds_taken_apart_are_one_study_in_one_folder(
    tiny_policy: DiffusionPolicy, arms: list[str], calls: Counter[str], tmp_path: Path
) -> None:
    for seed in (0, 1):
        run_study(tiny_policy, ["one"], [seed], SIZES, tmp_path / str(seed), _silent)
    shutil.copytree(tmp_path / "1", tmp_path / "0", dirs_exist_ok=True)
    calls.clear()
    merged = to_json(run_study(tiny_policy, ["one"], [0, 1], SIZES, tmp_path / "0", _silent))
    assert merged["seeds"] == 2
    assert calls["evaluate_policy"] == calls["align"] == calls["score_group"] == 0


@pytest.mark.slow
def test_the_critic_picks_and_the_control_has_its_scores(
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {
        "embedded": Arm(TINY, images=2, group_size=3),
        "shuffled": Arm(TINY, "shuffled", images=2, group_size=3),
        "labels": Arm({**TINY, "replay_weight": 1.0}, images=2, group_size=3, labels="lab-train", labelled=2),
    }
    monkeypatch.setattr(study, "ARMS", arms)
    sizes = Sizes(test=2, samples=20, calibration=4)
    told = to_json(run_study(tiny_policy, list(arms), [0], sizes, tmp_path, _silent))
    assert calls["score_group"] == 2  # once for all three
    assert told["base"]["pick of 20"] is not None
    assert all(arm["minus_base"]["pick of 20"] for arm in told["arms"].values())
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "wild-test-2", "wild-train-2", "lab-train-2"
    }  # fmt: skip
    json.dumps(told)


def test_every_arm_of_the_table_can_be_configured(tmp_path: Path) -> None:
    from rl.config import GroupPreferenceConfig

    (tmp_path / "replay").touch()
    for arm in ARMS.values():
        file = {"replay_file": str(tmp_path / "replay")} if arm.labels else {}
        GroupPreferenceConfig(output_dir=str(tmp_path), use_cpu=True, **{**arm.alignment, **file})
        assert arm.labels is not None or not arm.alignment.get("replay_weight")


def _report(spread_mm: float, errors_mm: list[float]) -> Report:
    errors = np.array(errors_mm, dtype=np.float64)
    flat = {"all": np.full(len(errors), spread_mm, dtype=np.float64)}
    reductions = dict.fromkeys(("mean", "hyp0", "averaged", "min20", "min100"), errors)
    values = {"mpjpe_mm": {**reductions, "pick20": errors * np.nan}, "spread_mm": flat}
    return Report(("a", "b"), {**values, **dict.fromkeys(
        ("spread_visible_mm", "spread_occluded_mm", "calibration_80"), flat)}, ())  # fmt: skip


def test_the_base_is_as_narrow_as_asked() -> None:
    scales = [_report(100, [200, 100]), _report(80, [180, 90]), _report(40, [100, 80])]
    # 70 mm lie a quarter of the way from 80 to 40: 180 - 20, 90 - 2.5
    assert at_spread(scales, 70.0, "mean") == pytest.approx([160, 87.5])
    assert at_spread(scales, 100.0, "mean") == pytest.approx([200, 100])
    assert at_spread(scales, 120.0, "mean") == pytest.approx([200, 100])
    assert at_spread(scales, 10.0, "mean") == pytest.approx([100, 80])


def test_differences_are_paired_and_per_cents_are_of_the_means() -> None:
    base, arm = _report(100, [300, 100]), _report(100, [240, 80])
    runs = StudyRuns({"ours": [arm, arm], "hmr-scorer, dpo": [base, base]}, [[base], [base]], {"M": 100})
    told = to_json(runs)["arms"]["ours"]
    # 60 and 20 mm less: 40 on average of 200, and a fifth of either image, so that no resample says otherwise
    assert told["minus_base"]["mean"][0] == pytest.approx(-40)
    for rival in ("base", "the base at its spread", "hmr-scorer, dpo"):
        assert told["percent_less"][rival]["mean"] == pytest.approx([20, 20, 20])
    assert told["minus_base"]["pick of 20"] is None
    assert "| ours | 160.0, **-40.0 ± " in markdown(runs)
    assert "pick" not in markdown(runs)
