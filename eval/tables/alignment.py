"""The tables of alignments: table 1 (methods between base and ceiling), table 2 (what the training contributes),
table 5 (our choices), and recovered headroom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from eval.benchmark.headroom import recovered_share
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import Report
from eval.benchmark.tables import METRIC_NAMES
from eval.study.arms import (
    ADHMR,
    CEILING,
    DPO,
    EMBEDDED,
    OURS,
    SFT,
    UNALIGNED,
    Arm,
    ArmId,
    finals,
    recipe,
)
from eval.study.runs import StudyRuns
from eval.tables import paper
from eval.tables.sizes import TableSizes
from eval.tables.table import Claim, Column, ResultTable, TableRow
from eval.tables.variants import variant_arms

__all__ = ["alignment_table", "arms_of", "headroom_table", "training_table", "variants_table"]

MPJPE, PA_MPJPE = "mpjpe_mm", "pa_mpjpe_mm"
MORE = ArmId("embedded, policy-gradient, more images", "ours, more unlabelled images")
GROUP_AGENT = ArmId("embedded, group loss", "agent, the paper's group loss, bounded")
GROUP_HMR_SCORER = ArmId("hmr-scorer, group loss", "HMR-Scorer, the paper's group loss, bounded")


def arms_of(sizes: TableSizes) -> dict[ArmId, Arm]:
    """Every arm that the tables show, with the images of `sizes`."""
    known = finals()
    group_loss = recipe("clip")  # with our bound; without one it diverges (the row `loss linear` of table 5)
    arms = {
        OURS: known[OURS],
        ADHMR: known[ADHMR],
        GROUP_AGENT: Arm(group_loss),
        GROUP_HMR_SCORER: Arm(group_loss, "hmr-scorer"),
        DPO: known[DPO],
        SFT: known[SFT],
        **{EMBEDDED[method]: known[EMBEDDED[method]] for method in sizes.methods},
    }
    sized = {which: arm.with_images(sizes.align) for which, arm in arms.items()}
    return {**sized, MORE: _with_more_images(sized[OURS], sizes.more)}


def _with_more_images(arm: Arm, images: int) -> Arm:
    """A policy gradient with more images in each of as many updates, so that the rows differ in the images alone."""
    assert arm.policy_gradient is not None
    gradient = replace(arm.policy_gradient, images_per_update=images // arm.policy_gradient.updates)
    return replace(arm, images=images, policy_gradient=gradient)


@dataclass(frozen=True)
class _Runs:
    """The reports of a study by row: an arm, the base or the ceiling. about: the protocol of its images."""

    runs: StudyRuns
    sizes: TableSizes
    about: str
    data: str

    @property
    def rows(self) -> list[ArmId]:
        """Those that were run: the ceiling needs labels."""
        return [UNALIGNED, *self.runs.arms, *([CEILING] if self.runs.ceiling else [])]

    def values(self, row: ArmId, metric: str, reduction: str) -> Float[np.ndarray, "seeds images"]:
        return np.stack([report.values[metric][reduction] for report in self._reports(row)])

    def _reports(self, row: ArmId) -> list[Report]:
        if row == UNALIGNED:
            return [scales[0] for scales in self.runs.bases]
        return self.runs.ceiling if row == CEILING else self.runs.arms[row]

    def row(
        self, which: ArmId, columns: Mapping[str, tuple[str, str]], theirs: Mapping[str, float]
    ) -> TableRow:
        cells = {key: bootstrap_mean(self.values(which, *where)) for key, where in columns.items()}
        uses_truth = which == CEILING or which in self.runs.uses_truth
        return TableRow(which.title, cells, theirs, uses_truth)

    def from_base(self, row: ArmId, reductions: Sequence[str]) -> dict[str, Interval | None]:
        """Paired differences of MPJPE from the base, below 0 where this row is better; none for the base itself."""
        if row == UNALIGNED:
            return {}
        return {
            f"from_base_{key}": bootstrap_mean(
                self.values(row, MPJPE, key) - self.values(UNALIGNED, MPJPE, key)
            )
            for key in reductions
        }

    def claim(self, better: ArmId, worse: ArmId) -> Claim:
        count = 100 if 100 in self.sizes.counts else self.sizes.study.samples
        sentence = f"{better.title} is below {worse.title} (MPJPE, minimum over {count}, mm)"
        less_mm = self.values(worse, MPJPE, f"min{count}") - self.values(better, MPJPE, f"min{count}")
        return Claim(sentence, bootstrap_mean(less_mm))

    def table(
        self,
        name: str,
        title: str,
        rows: Mapping[ArmId, Mapping[str, float]],
        claims: Sequence[tuple[ArmId, ArmId]],
        paper_columns: Sequence[Column],
        paper_source: str,
    ) -> ResultTable:
        """rows: the paper's numbers by row. claims: the row that is lower in the paper, and the higher one."""
        columns, where = _columns(self.sizes)
        return ResultTable(
            name,
            title,
            self.protocol,
            columns,
            paper_columns,
            paper_source,
            [self.row(row, where, theirs) for row, theirs in rows.items() if row in self.rows],
            [self.claim(*pair) for pair in claims if {*pair} <= {*self.rows}],
            self.data,
        )

    @property
    def protocol(self) -> str:
        seeds = ", ".join(map(str, self.sizes.seeds))
        made = self.runs.made_from
        return (
            f"{self.about}, {self.sizes.align} images; seeds {seeds}; PA: similarity Procrustes per hypothesis; M = "
            f"{', '.join(map(str, self.sizes.counts))}; base policy {made['base policy']}, benchmark "
            f"{made['benchmark']}"
        )


def _columns(sizes: TableSizes) -> tuple[list[Column], dict[str, tuple[str, str]]]:
    where = {f"min{count}": (MPJPE, f"min{count}") for count in sizes.counts}
    where |= {f"pa{sizes.study.samples}": (PA_MPJPE, f"min{sizes.study.samples}")}
    where |= {name: (MPJPE, name) for name in ("mean", "hyp0", "averaged")}
    columns = [
        Column(key, f"{METRIC_NAMES[metric]}, {_title(reduction)}")
        for key, (metric, reduction) in where.items()
    ]
    return columns, where


def _title(reduction: str) -> str:
    titles = {"mean": "mean", "hyp0": "hypothesis 0", "averaged": "averaged pose"}
    return titles.get(reduction, f"M={reduction[3:]}")


def alignment_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """Table 1: the base, ADHMR's recipe, the paper's loss, ours, ours with more images, and the ceiling.

    about: the protocol of the images (`eval.study.images`). data: as in `ResultTable`.
    """
    theirs = paper.ALIGNMENT
    rows = {
        UNALIGNED: theirs["base"],
        ADHMR: theirs["adhmr"],
        GROUP_AGENT: theirs["ours"],
        **{arm: {} for arm in (OURS, *(EMBEDDED[method] for method in sizes.methods))},
        MORE: theirs["more"],
        CEILING: {},
    }
    claims = [
        (ADHMR, UNALIGNED),
        (GROUP_AGENT, ADHMR),
        (OURS, ADHMR),
        (MORE, OURS),
        (CEILING, OURS),
    ]
    title = "Alignment on images without labels"
    shown = (paper.ALIGNMENT_COLUMNS, paper.ALIGNMENT_SOURCE)
    return _Runs(runs, sizes, about, data).table("table-1", title, rows, claims, *shown)


def training_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """Table 2: what the critic and the loss contribute."""
    theirs = paper.TRAINING
    rows = {
        UNALIGNED: theirs["base"],
        SFT: theirs["sft"],
        GROUP_HMR_SCORER: theirs["group loss, hmr-scorer"],
        DPO: theirs["dpo, agent"],
        GROUP_AGENT: theirs["group loss, agent"],
        OURS: {},
    }
    claims = list(zip(list(rows)[1:], rows, strict=False))  # each row is below the one before
    shown = (paper.TRAINING_COLUMNS, paper.TRAINING_SOURCE)
    return _Runs(runs, sizes, about, data).table("table-2", "Critic and loss", rows, claims, *shown)


def variants_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """Table 5: the arms of `eval.tables.variants` between the base and the ceiling, with paired differences from the
    base."""
    given = _Runs(runs, sizes, about, data)
    rows = {which: {} for which in (UNALIGNED, *variant_arms(sizes, with_truth=True), CEILING)}
    table = given.table("table-5", "Losses, rounds, group sizes and critics", rows, (), (), "")
    changed = ("hyp0", "averaged", f"min{sizes.study.samples}")
    columns = [Column(f"from_base_{key}", f"MPJPE from the base, {_title(key)}") for key in changed]
    shown = [which for which in rows if which in given.rows]
    with_changes = [
        replace(row, cells={**row.cells, **given.from_base(which, changed)})
        for which, row in zip(shown, table.rows, strict=True)
    ]
    return replace(table, columns=[*table.columns, *columns], rows=with_changes)


def headroom_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """The share of the ceiling's gain that every arm recovers (docs/reference/measures.md); needs a ceiling. The row
    with more images is left out, because its ceiling would have their labels too."""
    given, samples = _Runs(runs, sizes, about, data), sizes.study.samples
    where = {"hyp0": "hypothesis 0", "averaged": "averaged pose", f"min{samples}": f"minimum over {samples}"}
    rows = [
        TableRow(
            which.title,
            {
                key: recovered_share(
                    given.values(UNALIGNED, MPJPE, key),
                    given.values(which, MPJPE, key),
                    given.values(CEILING, MPJPE, key),
                )
                for key in where
            },
            uses_truth=which in runs.uses_truth,
        )
        for which in runs.arms
        if which != MORE
    ]
    return ResultTable(
        "headroom",
        "Recovered headroom: 0 is the base, 1 the ceiling",
        given.protocol,
        [Column(key, title, 2) for key, title in where.items()],
        (),
        "",
        rows,
        (),
        data,
    )
