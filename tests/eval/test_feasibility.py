"""The study's parts: who ranks what, and an oracle's alignment that is found again when asked twice."""

from pathlib import Path

import pytest

from agent.default import open_default_memory
from agent.types import Evidence, GroupCritique
from eval.feasibility import VARIANTS, JudgedGroup, OracleStudy, judge, rank_agreements
from eval.spread_match import SPREAD_TOLERANCE
from hmr.body import Body
from hmr.data.benchmark import draw_split
from hmr.data.store import read_labelled
from hmr.policy import DiffusionPolicy
from rl.preferences import load_preferences

ALIGNMENT = {"loss_type": "weighted", "max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"}


def silent(title: str, total: int):
    return lambda done: None


def judged(errors_mm: tuple[float, ...], scores: tuple[float | None, ...], **values: tuple[float, ...]):
    """A group whose evidence is given by metric; "second_look" is the tool of the metric of that name."""
    evidence = tuple(
        Evidence(
            "second_look" if metric == "second_look" else "tool",
            metric,
            "mm",
            column,
            tuple(() for _ in column),
            tuple("" for _ in column),
        )
        for metric, column in values.items()
    )
    empty = tuple("" for _ in scores)
    return JudgedGroup(GroupCritique("a", scores, empty, (), 0.0, evidence, (), (), ()), errors_mm)


def test_each_ranking_is_measured_against_the_error() -> None:
    errors = (10.0, 20.0, 30.0, 40.0)
    group = judged(
        errors,
        scores=(0.0, 1.0, 2.0, None),
        good=(1.0, 2.0, 3.0, 4.0),
        bad=(4.0, 3.0, 2.0, 1.0),
        muddled=(1.0, 4.0, 3.0, 2.0),
        second_look=(1.0, 2.0, 3.0, 4.0),
    )
    found = {name: i and i.mean for name, i in rank_agreements([group] * 8, [group] * 3).items()}
    # Lower is better: a metric equal to the error ranks perfectly. muddled: ranks differ from 1, 2, 3, 4 by
    # 0, 2, 0, 2, so rho = 1 - 6 * 8 / (4 * 15) = .2. The agent scored the worst of three best.
    assert found == pytest.approx(
        {"good": 1.0, "bad": -1.0, "muddled": 0.2, "RankNet on all": 1.0, "agent": -1.0}, abs=1e-6
    )


def test_a_metric_that_says_nothing_has_no_agreement() -> None:
    group = judged((10.0, 20.0, 30.0), (None, None, None), constant=(5.0, 5.0, 5.0), good=(1.0, 2.0, 3.0))
    found = rank_agreements([group] * 4, [group] * 2)
    assert found["constant"] is None
    assert found["agent"] is None
    assert found["good"] is not None


@pytest.mark.slow
def test_the_oracle_stands_beside_a_base_of_its_own_spread(
    tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path
) -> None:
    train = draw_split("wild-train", tmp_path, 3, uses_truth=True)
    test = draw_split("wild-test", tmp_path, 2)
    told: list[str] = []

    def stage(title: str, total: int):
        told.append(title)
        return lambda done: None

    study = OracleStudy(tiny_policy, body, train, test, tmp_path, ALIGNMENT, num_samples=5, stage=stage)
    first = study.run(0)
    base, oracle, matched = (first.reports[variant] for variant in VARIANTS)
    assert matched.spread_mm() == pytest.approx(oracle.spread_mm(), rel=1.01 * SPREAD_TOLERANCE)
    # Both start hypothesis 0 from zero noise: a quieter base gives the same one.
    assert matched.values["mpjpe_mm"]["hyp0"] == pytest.approx(base.values["mpjpe_mm"]["hyp0"], rel=1e-5)
    assert oracle.values["mpjpe_mm"]["hyp0"].tolist() != base.values["mpjpe_mm"]["hyp0"].tolist()
    assert len(told) == 5
    groups = load_preferences(next(tmp_path.glob("oracle-*/groups")))
    assert groups["uses_truth"] == [True] * 3

    again = study.run(0)
    assert len(told) == 5  # nothing was done twice
    assert again.noise_scale == first.noise_scale
    assert {name: report.summary() for name, report in again.reports.items()} == {
        name: report.summary() for name, report in first.reports.items()
    }
    other = OracleStudy(
        tiny_policy, body, train, test, tmp_path, {**ALIGNMENT, "max_steps": 3}, num_samples=5, stage=stage
    )
    other.run(0)
    assert len(told) == 9  # another alignment: everything again but the base


@pytest.mark.slow
def test_true_detections_change_the_judgement_and_not_the_group(
    tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path
) -> None:
    cases = read_labelled(draw_split("wild-test", tmp_path, 2))
    with open_default_memory(tmp_path / "memory", tiny_policy, frozen=False):
        pass  # the seed rules
    groups = {
        truth: judge(tiny_policy, body, cases, tmp_path / "memory", silent, "judging", truth)
        for truth in (False, True)
    }
    for detected, told in zip(groups[False], groups[True], strict=True):
        assert detected.errors_mm == told.errors_mm
        assert detected.critique.evidence != told.critique.evidence
        assert len(detected.critique.scores) == len(detected.errors_mm) == 20
