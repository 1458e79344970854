"""The paper's tables: cells, claims and files by hand, and one miniature run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from common.storage.versions import versions
from eval.benchmark.intervals import Interval
from eval.benchmark.measures.body_measures import BODY_MEASURES
from eval.benchmark.protocol import ERROR_METRICS, Report, ScoredGroup
from eval.critics.ablations import AGENT
from eval.critics.comparison import CriticComparison, CriticEvalSettings, critic_result
from eval.critics.kinds import BASELINES, PARTS
from eval.study.arms import ADHMR, BASE, DPO, EMBEDDED, OURS, SFT
from eval.study.runs import StudyRuns
from eval.tables.alignment import (
    GROUP_AGENT,
    GROUP_HMR_SCORER,
    MORE,
    alignment_table,
    arms_of,
    headroom_table,
    training_table,
)
from eval.tables.critics import ablation_table, critic_table
from eval.tables.run import run_tables
from eval.tables.sizes import FULL, QUICK
from eval.tables.table import Claim, Column, ResultTable, TableRow
from eval.tables.variants import variant_arms
from eval.tables.writing import latex, markdown, write_tables
from hmr.policy.checkpoint import BASES, load_policy
from rl.config import LOSS_TYPES
from tests.command import call
from tests.eval.tables import small_tables
from tests.eval.tables.small_tables import use_small_arms

SIZES = replace(QUICK, study=replace(QUICK.study, samples=20, minima=(10,)))
ABOUT = "a test"
ERRORS = {
    ADHMR: 99.0,
    GROUP_AGENT: 97.0,
    OURS: 90.0,
    MORE: 88.0,
    DPO: 98.0,
    GROUP_HMR_SCORER: 98.0,
    SFT: 100.0,
}


def report(error_mm: float) -> Report:
    noise = np.array([-1.0, 0.0, 1.0]) + error_mm
    reductions = dict.fromkeys(("mean", "hyp0", "averaged", "min10", "min20", "pick20"), noise)
    flat = {"all": noise}
    values = {"mpjpe_mm": reductions, "pa_mpjpe_mm": reductions, "spread_mm": flat}
    values |= dict.fromkeys(("spread_visible_mm", "spread_occluded_mm", "calibration_80"), flat)
    values |= {name: {"first10": noise} for name in BODY_MEASURES}
    return Report(("a", "b", "c"), values, ())


@pytest.fixture
def runs() -> StudyRuns:
    made_from = {"base policy": "p", "benchmark": "b", "M": 20}
    arms = {name: [report(error)] for name, error in ERRORS.items()}
    return StudyRuns(arms, [report(80.0)], [[report(100.0)]], made_from)


def test_table_1_has_our_cells_the_paper_s_and_its_claims(runs):
    table = alignment_table(runs, SIZES, ABOUT)
    rows = {row.name: row for row in table.rows}
    ours = rows["ours: agent, policy gradient"]
    assert ours.cells["min20"].mean == 90.0
    assert rows["base"].paper == {"3dpw": 63.0, "h36m": 38.4}
    assert [row.name for row in table.rows if row.uses_truth] == [
        "supervised on the same images' truth (ceiling)"
    ]
    assert [(claim.difference.mean, claim.verdict) for claim in table.claims] == [
        (1.0, "holds"), (2.0, "holds"), (9.0, "holds"), (2.0, "holds"), (10.0, "holds"),
    ]  # fmt: skip
    assert table.protocol.startswith(
        "a test, 400 images; seeds 0; PA: similarity Procrustes per hypothesis; M = 10, 20"
    )


def test_table_2_says_what_does_not_hold_and_what_is_not_decided(runs):
    verdicts = [claim.verdict for claim in training_table(runs, SIZES, ABOUT).claims]
    assert verdicts == [
        "not decided",
        "holds",
        "not decided",
        "holds",
        "holds",
    ]  # equal to the base; equal to DPO
    assert Claim("a is below b", Interval(-1.0, -2.0, -0.5)).verdict == "does not hold"
    assert Claim("a is below b", None).verdict == "not decided"


def test_recovered_headroom_is_the_share_of_what_the_ceiling_gains(runs):
    rows = {row.name: row for row in headroom_table(runs, SIZES, ABOUT).rows}
    assert rows["ours: agent, policy gradient"].cells["hyp0"].mean == pytest.approx(0.5)


def small_table() -> ResultTable:
    rows = [
        TableRow("a_b", {"x": Interval(1.25, 1.0, 1.5)}, {"theirs": 3.0}),
        TableRow("100 %", {"x": None}, uses_truth=True),
    ]
    claims = [Claim("a is below b", Interval(2.0, 1.0, 3.0))]
    return ResultTable(
        "table-9",
        "Two rows",
        "five images",
        [Column("x", "x, mm")],
        [Column("theirs", "3DPW")],
        "a page",
        rows,
        claims,
    )


def test_markdown_by_hand():
    assert markdown(small_table()).splitlines() == [
        "## Table 9: Two rows",
        "",
        "Protocol: five images.",
        "Last 1 columns: a page.",
        "",
        "|  | uses truth | x, mm | 3DPW |",
        "|---|---|---:|---:|",
        "| a_b | no | 1.2 ± 0.2 | 3.0 |",
        "| 100 % | yes | - | - |",
        "",
        "- a is below b: **holds** (+2.0, +1.0 to +3.0)",
    ]


def test_latex_is_escaped_and_complete():
    text = latex(small_table())
    assert r"a\_b & 1.2 $\pm$ 0.2 & 3.0 \\" in text
    assert r"100 \% (uses truth) & - & - \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_the_three_files_hold_the_same_tables(tmp_path):
    paths = write_tables([small_table()], tmp_path / "out")
    assert [path.name for path in paths] == ["tables.md", "tables.tex", "tables.parquet"]
    records = Dataset.from_parquet(str(paths[2]), cache_dir=str(tmp_path / "cache")).to_list()
    assert [(record["row"], record["source"], record["value"]) for record in records] == [
        ("a_b", "ours", 1.25), ("100 %", "ours", None), ("a_b", "paper", 3.0),
    ]  # fmt: skip
    assert (records[0]["low"], records[0]["high"], records[0]["protocol"]) == (1.0, 1.5, "five images")


def test_the_folder_of_tables_records_sizes_policy_and_versions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.tables.run.run_tables", lambda *_: [small_table()])
    code, _, err = call(monkeypatch, capsys, "tables", "--table", 3, "--out", tmp_path)
    assert code == 0, err
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["settings"]["tables"], run["settings"]["sizes"]["seeds"]) == ([3], [0])
    assert run["settings"]["policy"] == load_policy(BASES[BASE]).digest()
    assert run["versions"] == versions()


@pytest.mark.parametrize("sizes", [QUICK, FULL])
def test_every_arm_has_as_many_images_but_the_one_with_more(sizes):
    arms = arms_of(sizes)
    assert {name for name, arm in arms.items() if arm.images == sizes.more} == {MORE}
    assert {arm.images for name, arm in arms.items() if name != MORE} == {sizes.align}
    assert not any(arm.uses_truth for arm in arms.values())
    ours, more = (arms[name].policy_gradient for name in (OURS, MORE))
    assert (more.updates, more.minibatches) == (ours.updates, ours.minibatches)
    assert more.critiques == sizes.more
    for name in sizes.methods:
        gradient = arms[EMBEDDED[name]].policy_gradient
        assert gradient is None or gradient.critiques == sizes.align


def test_tables_3_and_4_show_the_agent_others_and_its_parts():
    errors = np.array([1.0, 2.0, 3.0, 4.0])

    def groups(*scores: float) -> list[ScoredGroup]:
        by_error = dict.fromkeys(ERROR_METRICS, errors)
        return [ScoredGroup(str(number), scores, by_error) for number in range(10)]

    right, wrong = groups(4.0, 3.0, 2.0, 1.0), groups(1.0, 2.0, 3.0, 4.0)
    others = ("hmr-scorer", "ranknet", "consensus", "random")
    parts = [f"agent without {part}" for part in ("rules", "prototypes", "reflection")]
    critics = {critic: critic_result(critic.name, wrong, right) for critic in (*BASELINES, *PARTS)}
    found = CriticComparison(
        critics={AGENT: critic_result("agent", right, right), **critics},
        evidence={}, benchmark="b", calibration=None, base_policy="p",
    )  # fmt: skip
    settings = CriticEvalSettings(critic="all", base="studio", images=10, samples=4)
    third, fourth = critic_table(found, settings), ablation_table(found, settings)
    assert [row.name for row in third.rows] == ["agent", *others]
    assert [row.name for row in fourth.rows] == ["agent", *parts]
    assert third.rows[0].cells["srcc_mpjpe"].mean == 1.0
    assert third.rows[1].paper["srcc_mpjpe"] == 0.588
    assert {claim.verdict for claim in (*third.claims, *fourth.claims)} == {"holds"}
    assert [claim.difference.mean for claim in third.claims] == [2.0] * 4


def test_an_unknown_table_is_refused(tiny_policy, tmp_path):
    with pytest.raises(ValueError, match="there is no table 6; the tables are 1, 2, 3, 4, 5"):
        run_tables(tiny_policy, [1, 6], QUICK, tmp_path, lambda title, total: lambda done, note="": None, 1)


def test_without_labels_there_is_no_ceiling(runs):
    """Neither its row nor its claims."""
    table = alignment_table(replace(runs, ceiling=[]), SIZES, ABOUT, "3dpw-test")
    assert not any(row.uses_truth for row in table.rows)
    assert len(table.claims) == len(alignment_table(runs, SIZES, ABOUT).claims) - 1
    assert markdown(table).startswith("## Table 1: Alignment on images without labels (3dpw-test)")
    assert r"\label{tab:table-1-3dpw-test}" in latex(table)
    assert {record["data"] for record in table.records()} == {"3dpw-test"}


@pytest.mark.parametrize(("people", "align", "more"), [(9, 4, 9), (1000, 400, 800), (700, 350, 700)])
def test_the_row_with_more_images_has_more(people, align, more):
    sizes = QUICK.with_people(people)
    assert (sizes.align, sizes.more) == (align, more)


def test_seven_people_are_too_few():
    with pytest.raises(ValueError, match="at least 8 people, not 7"):
        QUICK.with_people(7)


@pytest.mark.parametrize("sizes", [QUICK, FULL])
def test_no_base_is_narrowed_that_no_table_shows(sizes):
    assert not sizes.study.references


@pytest.mark.slow
def test_table_5_has_a_row_for_every_choice(tiny_policy, tmp_path: Path, monkeypatch):
    use_small_arms(monkeypatch)
    silent = lambda title, total: lambda done, note="": None  # noqa: E731
    table, headroom = run_tables(tiny_policy, [5], small_tables.SIZES, tmp_path, silent, 1)
    names = [row.name for row in table.rows]
    assert [f"loss {loss}" for loss in LOSS_TYPES] == names[1 : 1 + len(LOSS_TYPES)]
    assert {row.name for row in table.rows if row.uses_truth} == {
        "resample, the truth",
        "resample, a reading of SRCC 0.6 with independent errors",
        "resample, a reading of SRCC 0.6 with the policy's errors",
        "supervised on the same images' truth (ceiling)",
    }
    base, *others = table.rows
    for row in others:
        difference = row.cells["hyp0"].mean - base.cells["hyp0"].mean
        assert row.cells["from_base_hyp0"].mean == pytest.approx(difference, abs=1e-6)
    assert "from_base_hyp0" not in base.cells
    assert [row.name for row in headroom.rows] == names[1:-1]
    with_truth = {row.name for row in table.rows[:-1] if row.uses_truth}
    assert {row.name for row in headroom.rows if row.uses_truth} == with_truth
    without = variant_arms(small_tables.SIZES, with_truth=False)
    assert len(without) == len(names) - 2 - 3


@pytest.mark.slow
def test_a_miniature_run_goes_on_where_a_killed_one_stopped(tiny_policy, tmp_path: Path, monkeypatch):
    use_small_arms(monkeypatch)

    def killed(title: str, total: int):
        def tick(done: int, note: str = "", /) -> None:
            if DPO.name in title:
                raise KeyboardInterrupt

        return tick

    with pytest.raises(KeyboardInterrupt):
        run_tables(tiny_policy, [1, 2], small_tables.SIZES, tmp_path / "cut", killed, 1)
    silent = lambda title, total: lambda done, note="": None  # noqa: E731
    resumed = run_tables(tiny_policy, [1, 2], small_tables.SIZES, tmp_path / "cut", silent, 1)
    whole = run_tables(tiny_policy, [1, 2], small_tables.SIZES, tmp_path / "whole", silent, 1)
    assert [table.name for table in resumed] == ["table-1", "table-2", "headroom"]
    assert list(map(markdown, resumed)) == list(map(markdown, whole))
    for damaged in (tmp_path / "cut" / "study").glob("*/**/*pseudo-labels*"):  # an arm's report and policy
        shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
    again = run_tables(tiny_policy, [1, 2], small_tables.SIZES, tmp_path / "cut", silent, 1)
    assert list(map(markdown, again)) == list(map(markdown, whole))
    labels = [path.name for path in (tmp_path / "whole" / "study" / "labels").iterdir()]
    assert [name.startswith("align-labels-2-") for name in labels if "align" in name] == [True]  # as the arms
