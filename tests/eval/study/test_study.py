"""The study in miniature: killed, taken up again, and asked a second time; and its formulas by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import rl.preferences.build
import rl.rounds
from common.progress import Stage, Tick
from eval.benchmark.headroom import recovered_share
from eval.benchmark.measures.body_measures import BODY_MEASURES
from eval.benchmark.measures.plausibility import PLAUSIBILITY
from eval.benchmark.protocol import Report, ScoredGroup
from eval.study import images
from eval.study.arms import (
    DPO,
    EMBEDDED,
    FIT,
    SETS,
    Arm,
    ArmId,
    Method,
    all_arms,
    ceiling_arm,
    critics,
    finals,
    methods,
)
from eval.study.runs import StudyRuns, at_spread
from eval.study.study import Sizes, run_study
from eval.study.study_table import markdown, to_json
from hmr.policy.policy import DiffusionPolicy

TINY = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.01, "warmup_steps": 0}
IMITATION = {**TINY, "loss_type": "resample", "train_estimate": True}
TRUTH = Arm({**TINY, "loss_type": "weighted"}, "noisy-truth:1", images=3, group_size=3)
TOP = Arm(IMITATION, imitates="align labels", images=2)
SIZES = Sizes(test=2, samples=4, calibration=4, picks=False)


ARMS_OF_TRUTH = {
    ArmId("one"): TRUTH,
    ArmId("same groups"): Arm({**TINY, "loss_type": "clip"}, "noisy-truth:1", images=2, group_size=3),
    ArmId("two rounds"): Arm(TINY, "noisy-truth:0.5", images=2, group_size=3, rounds=2),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of expensive functions."""
    counted: Counter[str] = Counter()
    for module, name in (
        (images, "evaluate_policy"), (images, "draw_split"), (rl.rounds, "align"),
        (rl.preferences.build, "score_group"),
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
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path
) -> None:
    whole = run_study(tiny_policy, ARMS_OF_TRUTH, [0], SIZES, tmp_path / "whole", _silent, TOP)
    # 3 images for `one`, of which `same groups` takes 2; `two rounds` has 2 of another critic
    assert calls["score_group"] == 3 + 2 + 2
    cut = tmp_path / "cut"
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run_study(
            tiny_policy, ARMS_OF_TRUTH, [0], SIZES, cut, _killed_at("seed 0, same groups: evaluating"), TOP
        )
    before = calls.copy()
    calls.clear()
    resumed = run_study(tiny_policy, ARMS_OF_TRUTH, [0], SIZES, cut, _silent, TOP)
    assert to_json(resumed) == to_json(whole)
    assert before["align"] == 2
    assert calls["align"] == 5 - before["align"]  # one, one, two rounds, and the ceiling
    assert calls["score_group"] == 3 + 2 + 2 - before["score_group"]
    calls.clear()
    again = run_study(tiny_policy, ARMS_OF_TRUTH, [0], SIZES, cut, _silent, TOP)
    assert markdown(again) == markdown(whole)
    assert not {"evaluate_policy", "align", "score_group"} & set(+calls)


@pytest.mark.slow
def test_seeds_taken_apart_are_one_study_in_one_folder(
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path
) -> None:
    for seed in (0, 1):
        run_study(tiny_policy, {ArmId("one"): TRUTH}, [seed], SIZES, tmp_path / str(seed), _silent, TOP)
    shutil.copytree(tmp_path / "1", tmp_path / "0", dirs_exist_ok=True)
    calls.clear()
    merged = to_json(
        run_study(tiny_policy, {ArmId("one"): TRUTH}, [0, 1], SIZES, tmp_path / "0", _silent, TOP)
    )
    assert merged["seeds"] == 2
    assert not {"evaluate_policy", "align", "score_group"} & set(+calls)


@pytest.mark.slow
def test_the_critic_picks_and_the_control_has_its_scores(
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path
) -> None:
    arms = {
        ArmId("embedded"): Arm(TINY, images=2, group_size=3),
        ArmId("shuffled"): Arm(TINY, "shuffled", images=2, group_size=3),
        ArmId("shuffled in rounds"): Arm(TINY, "shuffled", images=2, group_size=3, rounds=2),
    }
    sizes = Sizes(test=2, samples=20, calibration=4)
    told = to_json(run_study(tiny_policy, arms, [0], sizes, tmp_path, _silent, TOP))
    assert calls["score_group"] == 2 + 2  # once for both arms of one round, once in rounds
    assert told["base"]["pick20"] is not None
    assert told["truth"]["silhouette_iou"] == 1.0
    assert told["truth"]["reprojection_true_percent"] == pytest.approx(0.0, abs=1e-3)
    assert told["truth"]["imbalance_mm"] > 0
    assert all(arm["minus_base"]["pick20"] for arm in told["arms"].values())
    assert -1 <= told["agent_srcc"] <= 1
    (rounds,) = (tmp_path / "policies").glob("shuffled-in-rounds-*-seed-0")
    assert len(rl.preferences.build.load_preferences(rounds / "round-0" / "groups")) == 1


@pytest.mark.slow
def test_bodies_are_imitated_in_place_of_groups_and_only_the_ceiling_reads_the_truth(
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path
) -> None:
    kinds = ("averaged", "fit", "reading", "train labels")
    arms = {ArmId(kind): Arm(IMITATION, imitates=kind, images=3) for kind in kinds}
    sizes = Sizes(test=2, samples=4, align=2, steps=1, picks=False)
    runs = run_study(tiny_policy, arms, [0], sizes, tmp_path, _silent, TOP)
    assert calls["align"] == len(kinds) + 1
    assert "score_group" not in calls
    assert runs.uses_truth == frozenset()
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "street-test-2", "street-align-2", "street-align-2-uses-truth", "studio-train-2",
    }  # fmt: skip
    assert len(list((tmp_path / "labels").iterdir())) == len(kinds) + 1
    told = json.loads(json.dumps(to_json(runs)))
    assert set(told["recovered"]) == set(kinds)
    assert set(told["recovered"]["fit"]) == {"hyp0", "averaged", "min4"}
    for part in ("plausibility", "agreement"):
        assert set(told[part]) == set(kinds)
    assert np.isfinite(told["agreement"]["fit"]["silhouette_iou"]["value"])


@pytest.mark.slow
def test_arms_that_start_from_another_one_share_its_policy(
    tiny_policy: DiffusionPolicy, calls: Counter[str], tmp_path: Path
) -> None:
    start = Arm(IMITATION, imitates="fit", images=2)
    arms = {
        ArmId("fit"): Arm(IMITATION, imitates="fit", images=2, after=start),
        ArmId("scores"): Arm(IMITATION, "noisy-truth:1", images=2, group_size=3, after=start),
        ArmId("rounds"): Arm(IMITATION, "noisy-truth:1", images=2, group_size=3, rounds=2, after=start),
    }
    run_study(tiny_policy, arms, [0], dataclasses.replace(SIZES, steps=2), tmp_path, _silent, ceiling=None)
    assert calls["align"] == 1 + 1 + 1 + 2
    assert len(list((tmp_path / "policies").glob("start-*"))) == 1
    assert (
        len(list((tmp_path / "labels").iterdir())) == 2
    )  # for the base, and for the start, in its coordinates
    (groups,) = (tmp_path / "groups").iterdir()
    assert groups.name.startswith("noisy-truth-1-4-G3-seed-0-")  # then the digest of the start
    calls.clear()
    sizes = dataclasses.replace(SIZES, steps=1)  # the start has as many steps too
    run_study(tiny_policy, {ArmId("fit"): arms[ArmId("fit")]}, [0], sizes, tmp_path, _silent, ceiling=None)
    assert calls["align"] == 2


def test_an_arm_is_as_large_as_what_it_starts_from() -> None:
    arm = all_arms()[ArmId("fit, then embedded, policy-gradient")]
    smaller = Sizes(align=100, steps=50).fit(arm)
    assert smaller.after is not None
    assert (smaller.images, smaller.after.images) == (100, 100)
    assert (smaller.alignment["max_steps"], smaller.after.alignment["max_steps"]) == (50, 50)
    assert not arm.uses_truth
    assert dataclasses.replace(arm, after=ceiling_arm()).uses_truth
    assert "after" in arm.inputs()
    assert "after" not in all_arms()[FIT].inputs()


def test_every_arm_can_be_configured_and_costs_as_much(tmp_path: Path) -> None:
    from rl.config import GroupPreferenceConfig

    for arm in (*all_arms().values(), ceiling_arm()):
        config = GroupPreferenceConfig(output_dir=str(tmp_path), use_cpu=True, **arm.alignment)
        steps = math.ceil(arm.epochs * 1600 / 128) if arm.epochs else 800
        assert (arm.images, arm.group_size, config.max_steps) == (1600, 20, steps)
        assert config.loss_type == "resample" or not arm.imitates
        if arm.policy_gradient:
            assert (arm.policy_gradient.critiques, arm.policy_gradient.group_size) == (1600, 20)
        if arm.search:
            assert arm.search.group_size == 20
    assert {which.name for which, arm in finals().items() if arm.uses_truth} == {
        f"truth, {name}" for name in Method
    }
    assert {which for which, arm in critics().items() if not arm.uses_truth} == {*EMBEDDED.values()}
    assert ceiling_arm().uses_truth
    assert len(critics()) == len(Method) * (
        1 + 1 + 2 * 3
    )  # the agent, the exact reading, three SRCCs of each kind


def test_an_arm_of_several_sets_is_the_same_in_all() -> None:
    found: dict[ArmId, tuple[str, bool, object]] = {}
    for arms in SETS.values():
        for which, arm in arms().items():
            shown = (which.title, which.is_control, arm.inputs())
            assert found.setdefault(which, shown) == shown


@pytest.mark.slow
def test_no_file_is_read_before_an_arm_is_needed() -> None:
    code = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import eval.tables.run, benchmarks.alignment.study\n"
        "print([path for path in opened if path.endswith('.yaml')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def _report(spread_mm: float, errors_mm: list[float], groups: tuple[ScoredGroup, ...] = ()) -> Report:
    errors = np.array(errors_mm, dtype=np.float64)
    flat = {"all": np.full(len(errors), spread_mm, dtype=np.float64)}
    reductions = dict.fromkeys(("mean", "hyp0", "averaged", "min20", "min100"), errors)
    values = {"mpjpe_mm": {**reductions, "pick20": errors * np.nan}, "spread_mm": flat}
    values["pa_mpjpe_mm"] = dict.fromkeys(("hyp0", "averaged", "min100"), errors / 2)
    values |= dict.fromkeys(("spread_visible_mm", "spread_occluded_mm", "calibration_80"), flat)
    values |= {name: {"first10": errors / 10} for name in BODY_MEASURES}
    return Report(("a", "b"), values, groups)


def test_the_base_is_as_narrow_as_asked() -> None:
    scales = [_report(100, [200, 100]), _report(80, [180, 90]), _report(40, [100, 80])]
    # 70 mm lie a quarter of the way from 80 to 40: 180 - 20, 90 - 2.5
    assert at_spread(scales, 70.0, "mean") == pytest.approx([160, 87.5])
    assert at_spread(scales, 100.0, "mean") == pytest.approx([200, 100])
    assert at_spread(scales, 120.0, "mean") == pytest.approx([200, 100])
    assert at_spread(scales, 10.0, "mean") == pytest.approx([100, 80])


def test_recovered_headroom_by_hand() -> None:
    """The headroom is 40 and 20 mm, 30 on average; the alignment gains 10 and 20 mm, 15 on average: a half, although
    the images alone give a quarter and the whole."""
    base, ceiling = np.array([[165.0, 145.0]]), np.array([[125.0, 125.0]])
    found = recovered_share(base, np.array([[155.0, 125.0]]), ceiling)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.25, 1.0))
    # all images alike: no resample says otherwise
    half = recovered_share(base, (base + ceiling) / 2, ceiling)
    assert half is not None
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert recovered_share(base, base, base) is None  # no headroom


def test_seeds_take_part_in_the_interval_of_recovered_headroom() -> None:
    base, ceiling = np.full((2, 3), 160.0), np.full((2, 3), 140.0)
    found = recovered_share(base, np.array([[150.0] * 3, [160.0] * 3]), ceiling)  # a half, and nothing
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.0, 0.5))


def test_the_tables_of_a_study_by_hand() -> None:
    scored = ScoredGroup("a", (1.0, 2.0, 3.0), {"mpjpe_mm": np.array([30.0, 20.0, 10.0])})
    base = _report(100, [300, 100], (scored,))
    arm, top = _report(100, [240, 80]), _report(100, [180, 60])
    runs = StudyRuns(
        {ArmId("ours"): [arm, arm], DPO: [base, base]},
        [top, top],
        [[base, base], [base, base]],
        {"M": 100},
        frozenset({ArmId("ours")}),
        _report(0, [50, 10]),
    )
    told = to_json(runs)
    assert told["recovered"]["ours"] == {
        name: pytest.approx([0.5, 0.5, 0.5]) for name in ("hyp0", "averaged", "min100")
    }
    assert told["recovered_at_spread"]["ours"]["hyp0"] == pytest.approx([0, 0, 0])
    assert told["agent_srcc"] == pytest.approx(1.0)
    assert told["plausibility"]["ours"]["floating_mm"]["value"] == pytest.approx(16)
    assert told["plausibility"]["ours"]["floating_mm"]["base_at_spread"] == pytest.approx(20)
    assert told["agreement"]["ours"]["silhouette_iou"]["minus_base_at_spread"][0] == pytest.approx(-4)
    ours = told["arms"]["ours"]
    # 60 and 20 mm less: 40 on average of 200, and a fifth of either image, so that no resample says otherwise
    assert ours["minus_base"]["mean"][0] == pytest.approx(-40)
    for rival in ("base", "the base at its spread", "embedded, dpo"):
        assert ours["percent_less"][rival]["mean"] == pytest.approx([20, 20, 20])
    assert ours["minus_base"]["pick20"] is None
    assert ours["uses_truth"]
    assert ours["minus_base"]["pa_hyp0"][0] == pytest.approx(-20)
    text = markdown(runs)
    assert "| labels (ceiling) | yes | 120.0 |" in text
    assert "| ours | yes | 160.0, **-40.0 ± " in text
    assert "| pa_hyp0 | pa_averaged | pa_min100 |" in text
    assert "| ours | yes | **+0.50 ± 0.00** | **+0.50 ± 0.00** | **+0.50 ± 0.00** |" in text
    assert f"| the true bodies |{' 3.0 |' * len(PLAUSIBILITY)} 3.00 | 3.00 | 3.000 |" in text
    assert "pick20 | spread_visible_mm" not in text
    assert "the base at its spread" in text
    alone = dataclasses.replace(runs, bases=[[base], [base]])
    assert "the base at its spread" not in markdown(alone)
    assert "the base at its spread" not in to_json(alone)["arms"]["ours"]["percent_less"]


@pytest.mark.parametrize(("images", "steps"), [(1600, 200), (256, 32), (2, 1)])
def test_the_ceiling_sees_every_image_equally_often(images: int, steps: int):
    """More passes learn the images by heart, so that labels of fewer images do not get more steps each."""
    for sizes in (Sizes(align=images), Sizes(align=images, steps=800)):
        sized = sizes.fit(ceiling_arm())
        assert (sized.images, sized.alignment["max_steps"]) == (images, steps)


@pytest.mark.parametrize(("images", "size", "updates"), [(1600, 40, 40), (400, 40, 10), (2, 2, 1)])
def test_every_method_has_one_critique_per_image(images, size, updates):
    for arm in methods().values():
        assert arm.with_images(images).images == images
    settings = methods()[Method.POLICY_GRADIENT].with_images(images).policy_gradient
    assert settings is not None
    assert (settings.images_per_update, settings.updates) == (size, updates)
