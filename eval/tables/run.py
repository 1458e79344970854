"""Runs what the tables need; finished parts in the run's folder are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.vlm import EmbeddedCritic
from common.progress import Stage
from common.storage.fingerprint import digest
from eval.benchmark.annotated.annotated_errors import EvaluationBodies
from eval.critics.comparison import CriticComparison, CriticEvalSettings, evaluate_critics
from eval.study.arms import BASE, Arm, ArmId, ceiling_arm
from eval.study.images import SceneImages
from eval.study.prepared import PreparedImages, PreparedSets
from eval.study.runs import StudyRuns
from eval.study.study import GAP, run_study
from eval.tables.alignment import (
    alignment_table,
    arms_of,
    headroom_table,
    training_table,
    variants_table,
)
from eval.tables.critics import ablation_table, critic_table
from eval.tables.sizes import TableSizes
from eval.tables.table import ResultTable
from eval.tables.variants import variant_arms
from hmr.policy.policy import DiffusionPolicy

__all__ = ["OURS", "TABLES", "run_prepared_tables", "run_tables"]

ALIGNMENTS = {1: alignment_table, 2: training_table, 5: variants_table}
ABLATIONS = 4  # the only table of critics that needs the agent's variants
CRITICS = {3: critic_table, ABLATIONS: ablation_table}
OURS = 5  # the other numbers are the paper's
TABLES = tuple(sorted((*ALIGNMENTS, *CRITICS)))


def _check_tables(tables: Sequence[int]) -> None:
    """Raises ValueError for an unknown number."""
    if unknown := sorted(set(tables) - set(TABLES)):
        raise ValueError(f"there is no table {unknown[0]}; the tables are {', '.join(map(str, TABLES))}")


def run_tables(
    policy: DiffusionPolicy, tables: Sequence[int], sizes: TableSizes, out: Path, stage: Stage, workers: int
) -> list[ResultTable]:
    """The tables of these numbers on the open benchmark, and recovered headroom beside those of alignments.

    policy: the base policy of `eval.study.arms.BASE`. Raises ValueError for an unknown number.
    """
    _check_tables(tables)
    found: list[ResultTable] = []
    if set(ALIGNMENTS) & set(tables):
        images = SceneImages.of(policy, GAP, sizes.study.test, out / "study" / "scenes", stage)
        ceiling = ceiling_arm().with_images(sizes.align)
        arms = _arms(tables, sizes, with_truth=True)
        runs = run_study(policy, arms, sizes.seeds, sizes.study, out / "study", stage, ceiling, images)
        found += _alignment_tables(tables, runs, sizes, images.protocol())
    if set(CRITICS) & set(tables):
        settings = _critic_settings(sizes, tables)
        comparison = evaluate_critics(
            policy, EmbeddedCritic(), settings, out / "critics", stage, workers=workers
        )
        found += _critic_tables(tables, comparison, settings)
    return found


def run_prepared_tables(
    policy: DiffusionPolicy,
    sets: PreparedSets,
    bodies: EvaluationBodies,
    tables: Sequence[int],
    sizes: TableSizes,
    out: Path,
    stage: Stage,
    print_line: Callable[[str], None],
) -> list[ResultTable]:
    """The same on real data sets: tables 1, 2 and 5 for each test set, 3 and 4 if there is a set to compare critics on.

    A set to align on with fewer people than the sizes ask for is used whole by the row with more images, and half of it
    by the others. Without labels there is no ceiling.
    print_line: receives what is left out, and why. Raises ValueError for an unknown number, and for sets that lack what
    they are used for.
    """
    _check_tables(tables)
    limit = None if sizes.whole_sets else sizes.study.test
    if set(CRITICS) & set(tables) and policy.device.type != "cpu":
        raise ValueError("tables 3 and 4 fit HMR-Scorer, which needs --device cpu")
    first, *others = (PreparedImages(sets, test, bodies, policy.detector, limit) for test in sets.test)
    for images in (first, *others):
        images.protocol()  # raises for a set without joints, before anything is aligned
    root, found = out / f"sets-{digest(policy.digest(), first.learned_from, length=8)}", []
    if set(ALIGNMENTS) & set(tables):
        sizes = sizes.with_people(first.people_to_align)
        for images in (first, *others):
            found += _prepared_alignments(policy, images, tables, sizes, root / "study", stage, print_line)
    if set(CRITICS) & set(tables):
        found += _prepared_critics(policy, first, tables, sizes, root / "critics", stage, print_line)
    return found


def _prepared_alignments(
    policy: DiffusionPolicy,
    images: PreparedImages,
    tables: Sequence[int],
    sizes: TableSizes,
    out: Path,
    stage: Stage,
    print_line: Callable[[str], None],
) -> list[ResultTable]:
    ceiling = ceiling_arm().with_images(sizes.align)
    if reason := images.without_labels(sizes.align):
        print_line(f"no ceiling and no headroom on {images.tests}: {reason}")
        ceiling = None
    arms = _arms(tables, sizes, with_truth=False)
    runs = run_study(policy, arms, sizes.seeds, sizes.study, out, stage, ceiling, images)
    about = f"{len(runs.bases[0][0].sample_ids)} people of {images.protocol()}"
    return _alignment_tables(tables, runs, sizes, about, images.tests)


def _prepared_critics(
    policy: DiffusionPolicy,
    images: PreparedImages,
    tables: Sequence[int],
    sizes: TableSizes,
    out: Path,
    stage: Stage,
    print_line: Callable[[str], None],
) -> list[ResultTable]:
    settings = _critic_settings(sizes, tables)
    compared = images.to_compare(settings.images, settings.calibration)
    if compared is None:
        print_line("no tables 3 and 4: no set to compare critics on is named")
        return []
    settings = replace(
        settings, images=len(compared.tests.cases), calibration=len(compared.calibration.cases)
    )
    comparison = evaluate_critics(policy, EmbeddedCritic(), settings, out, stage, images=compared)
    return _critic_tables(tables, comparison, settings, compared.tests.name)


def _arms(tables: Sequence[int], sizes: TableSizes, with_truth: bool) -> dict[ArmId, Arm]:
    of_the_paper = arms_of(sizes) if (set(ALIGNMENTS) - {OURS}) & set(tables) else {}
    return {**of_the_paper, **(variant_arms(sizes, with_truth) if OURS in tables else {})}


def _critic_settings(sizes: TableSizes, tables: Sequence[int]) -> CriticEvalSettings:
    return CriticEvalSettings(
        critic="all" if ABLATIONS in tables else "peers",
        base=BASE,
        images=sizes.critic_images,
        calibration=sizes.study.calibration,
    )


def _alignment_tables(
    tables: Sequence[int], runs: StudyRuns, sizes: TableSizes, about: str, data: str = ""
) -> list[ResultTable]:
    found = [make(runs, sizes, about, data) for number, make in ALIGNMENTS.items() if number in tables]
    return [*found, headroom_table(runs, sizes, about, data)] if runs.ceiling else found


def _critic_tables(
    tables: Sequence[int], comparison: CriticComparison, settings: CriticEvalSettings, data: str = ""
) -> list[ResultTable]:
    return [make(comparison, settings, data) for number, make in CRITICS.items() if number in tables]
