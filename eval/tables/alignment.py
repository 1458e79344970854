"""The tables of alignments: table 1 (methods between base and ceiling), table 2 (what the training contributes),
table 5 (our choices), and recovered headroom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from common.storage.files import CONFIGS
from eval.benchmark.headroom import recovered_share
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import Report
from eval.benchmark.tables import METRIC_NAMES
from eval.pipelines.align_settings import read_alignment
from eval.study.arms import FINALS, METHODS, STEPS, Arm
from eval.study.runs import CEILING_NAME, StudyRuns
from eval.tables import paper
from eval.tables.sizes import TableSizes
from eval.tables.table import Claim, Column, ResultTable, TableRow
from eval.tables.variants import variant_arms

__all__ = ["alignment_table", "arms_of", "headroom_table", "training_table", "variants_table"]

# The paper's group loss with our bound; without one it diverges (the row `loss linear` of table 5).
GROUP_LOSS = {**read_alignment(CONFIGS / "align_clip.yaml"), "max_steps": STEPS}
MPJPE, PA_MPJPE = "mpjpe_mm", "pa_mpjpe_mm"
OURS = "embedded, policy-gradient"
MORE = "embedded, policy-gradient, more images"
ADHMR = "hmr-scorer, dpo"
SFT = "pseudo-labels, averaged"
DPO = "embedded, dpo"
GROUP_HMR_SCORER = "hmr-scorer, group loss"
GROUP_AGENT = "embedded, group loss"
TITLES = {
    "base": "base",
    ADHMR: "ADHMR's recipe: HMR-Scorer, DPO",
    GROUP_AGENT: "agent, the paper's group loss, bounded",
    OURS: "ours: agent, policy gradient",
    MORE: "ours, more unlabelled images",
    "embedded, search": "ours: agent, search",
    "embedded, resample": "ours: agent, resample in four rounds",
    SFT: "supervised on pseudo-labels (averaged groups)",
    DPO: "agent, DPO",
    GROUP_HMR_SCORER: "HMR-Scorer, the paper's group loss, bounded",
    CEILING_NAME: "supervised on the same images' truth (ceiling)",
}


def arms_of(sizes: TableSizes) -> dict[str, Arm]:
    """Every arm that the tables show, by name, with the images of `sizes`."""
    arms = {
        OURS: METHODS["policy-gradient"],
        ADHMR: FINALS[ADHMR],
        GROUP_AGENT: Arm(GROUP_LOSS),
        GROUP_HMR_SCORER: Arm(GROUP_LOSS, "hmr-scorer"),
        DPO: FINALS[DPO],
        SFT: FINALS[SFT],
        **{f"embedded, {name}": METHODS[name] for name in sizes.methods},
    }
    sized = {name: arm.with_images(sizes.align) for name, arm in arms.items()}
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
    def rows(self) -> list[str]:
        """Those that were run: the ceiling needs labels."""
        return ["base", *self.runs.arms, *([CEILING_NAME] if self.runs.ceiling else [])]

    def values(self, row: str, metric: str, reduction: str) -> Float[np.ndarray, "seeds images"]:
        return np.stack([report.values[metric][reduction] for report in self._reports(row)])

    def _reports(self, row: str) -> list[Report]:
        if row == "base":
            return [scales[0] for scales in self.runs.bases]
        return self.runs.ceiling if row == CEILING_NAME else self.runs.arms[row]

    def row(self, name: str, columns: Mapping[str, tuple[str, str]], theirs: Mapping[str, float]) -> TableRow:
        cells = {key: bootstrap_mean(self.values(name, *where)) for key, where in columns.items()}
        uses_truth = name == CEILING_NAME or name in self.runs.uses_truth
        return TableRow(TITLES.get(name, name), cells, theirs, uses_truth)

    def from_base(self, name: str, reductions: Sequence[str]) -> dict[str, Interval | None]:
        """Paired differences of MPJPE from the base, below 0 where this row is better; none for the base itself."""
        if name == "base":
            return {}
        return {
            f"from_base_{key}": bootstrap_mean(
                self.values(name, MPJPE, key) - self.values("base", MPJPE, key)
            )
            for key in reductions
        }

    def claim(self, better: str, worse: str) -> Claim:
        count = 100 if 100 in self.sizes.counts else self.sizes.study.samples
        sentence = f"{TITLES[better]} is below {TITLES[worse]} (MPJPE, minimum over {count}, mm)"
        less_mm = self.values(worse, MPJPE, f"min{count}") - self.values(better, MPJPE, f"min{count}")
        return Claim(sentence, bootstrap_mean(less_mm))

    def table(
        self,
        name: str,
        title: str,
        rows: Mapping[str, Mapping[str, float]],
        claims: Sequence[tuple[str, str]],
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
        "base": theirs["base"],
        ADHMR: theirs["adhmr"],
        GROUP_AGENT: theirs["ours"],
        **{name: {} for name in (OURS, *(f"embedded, {method}" for method in sizes.methods))},
        MORE: theirs["more"],
        CEILING_NAME: {},
    }
    claims = [
        (ADHMR, "base"),
        (GROUP_AGENT, ADHMR),
        (OURS, ADHMR),
        (MORE, OURS),
        (CEILING_NAME, OURS),
    ]
    title = "Alignment on images without labels"
    shown = (paper.ALIGNMENT_COLUMNS, paper.ALIGNMENT_SOURCE)
    return _Runs(runs, sizes, about, data).table("table-1", title, rows, claims, *shown)


def training_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """Table 2: what the critic and the loss contribute."""
    theirs = paper.TRAINING
    rows = {
        "base": theirs["base"],
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
    rows = {name: {} for name in ("base", *variant_arms(sizes, with_truth=True), CEILING_NAME)}
    table = given.table("table-5", "Losses, rounds, group sizes and critics", rows, (), (), "")
    changed = ("hyp0", "averaged", f"min{sizes.study.samples}")
    columns = [Column(f"from_base_{key}", f"MPJPE from the base, {_title(key)}") for key in changed]
    names = [name for name in rows if name in given.rows]
    with_changes = [
        replace(row, cells={**row.cells, **given.from_base(name, changed)})
        for name, row in zip(names, table.rows, strict=True)
    ]
    return replace(table, columns=[*table.columns, *columns], rows=with_changes)


def headroom_table(runs: StudyRuns, sizes: TableSizes, about: str, data: str = "") -> ResultTable:
    """The share of the ceiling's gain that every arm recovers (docs/reference/measures.md); needs a ceiling. The row
    with more images is left out, because its ceiling would have their labels too."""
    given, samples = _Runs(runs, sizes, about, data), sizes.study.samples
    where = {"hyp0": "hypothesis 0", "averaged": "averaged pose", f"min{samples}": f"minimum over {samples}"}
    rows = [
        TableRow(
            TITLES.get(name, name),
            {
                key: recovered_share(
                    given.values("base", MPJPE, key),
                    given.values(name, MPJPE, key),
                    given.values(CEILING_NAME, MPJPE, key),
                )
                for key in where
            },
            uses_truth=name in runs.uses_truth,
        )
        for name in runs.arms
        if name != MORE
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
