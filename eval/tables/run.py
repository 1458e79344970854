"""Runs what the tables need; finished parts in the run's folder are not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.vlm import EmbeddedCritic
from common.progress import Stage
from eval.critics.comparison import CriticEvalSettings, evaluate_critics
from eval.study.arms import BASE, CEILING
from eval.study.study import run_study
from eval.tables.alignment import alignment_table, arms_of, headroom_table, training_table
from eval.tables.critics import ablation_table, critic_table
from eval.tables.sizes import TableSizes
from eval.tables.table import ResultTable
from hmr.policy.policy import DiffusionPolicy

__all__ = ["TABLES", "run_tables"]

TABLES = (1, 2, 3, 4)


def run_tables(
    policy: DiffusionPolicy, tables: Sequence[int], sizes: TableSizes, out: Path, stage: Stage, workers: int
) -> list[ResultTable]:
    """The paper's tables of these numbers on the open benchmark, and recovered headroom beside tables 1 and 2.

    policy: the base policy of `eval.study.arms.BASE`. Raises ValueError for an unknown number.
    """
    if unknown := sorted(set(tables) - set(TABLES)):
        raise ValueError(f"there is no table {unknown[0]}; the tables are {', '.join(map(str, TABLES))}")
    found: list[ResultTable] = []
    if {1, 2} & set(tables):
        ceiling = replace(CEILING, images=sizes.align)
        runs = run_study(policy, arms_of(sizes), sizes.seeds, sizes.study, out / "study", stage, ceiling)
        made = {1: alignment_table, 2: training_table}
        found += [make(runs, sizes) for number, make in made.items() if number in tables]
        found.append(headroom_table(runs, sizes))
    if {3, 4} & set(tables):
        settings = CriticEvalSettings(
            critic="all", base=BASE, images=sizes.critic_images, calibration=sizes.study.calibration
        )
        comparison = evaluate_critics(
            policy, EmbeddedCritic(), settings, out / "critics", stage, workers=workers
        )
        made_of_critics = {3: critic_table, 4: ablation_table}
        found += [make(comparison, settings) for number, make in made_of_critics.items() if number in tables]
    return found
