"""The tables of alignments: table 1 (methods between base and ceiling), table 2 (what the training contributes), and
recovered headroom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from common.files import CONFIGS
from eval.benchmark.headroom import recovered_share
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.benchmark.protocol import Report
from eval.benchmark.tables import METRIC_NAMES
from eval.pipelines.align_settings import read_alignment
from eval.study.arms import FINALS, METHODS, STEPS, Arm
from eval.study.study_table import CEILING_NAME, StudyRuns
from eval.tables import paper
from eval.tables.sizes import TableSizes
from eval.tables.table import Claim, Column, ResultTable, TableRow

__all__ = ["alignment_table", "arms_of", "headroom_table", "training_table"]

GROUP_LOSS = {**read_alignment(CONFIGS / "align_clip.yaml"), "max_steps": STEPS}  # the paper's
MPJPE, PA_MPJPE = "mpjpe_mm", "pa_mpjpe_mm"
OURS = "embedded, resample"
MORE = "embedded, resample, more images"
ADHMR = "hmr-scorer, dpo"
SFT = "pseudo-labels, averaged"
DPO = "embedded, dpo"
GROUP_HMR_SCORER = "hmr-scorer, group loss"
GROUP_AGENT = "embedded, group loss"
TITLES = {
    "base": "base",
    ADHMR: "ADHMR's recipe: HMR-Scorer, DPO",
    GROUP_AGENT: "the paper's: agent, group loss",
    OURS: "ours: agent, resample in four rounds",
    MORE: "ours, more unlabelled images",
    "embedded, search": "ours: agent, search",
    "embedded, policy-gradient": "ours: agent, policy gradient",
    SFT: "supervised on pseudo-labels (averaged groups)",
    DPO: "agent, DPO",
    GROUP_HMR_SCORER: "HMR-Scorer, group loss",
    CEILING_NAME: "supervised on the same images' truth (ceiling)",
}


def arms_of(sizes: TableSizes) -> dict[str, Arm]:
    """Every arm that the tables show, by name, with the images of `sizes`."""
    arms = {
        OURS: METHODS["resample"],
        ADHMR: FINALS[ADHMR],
        GROUP_AGENT: Arm(GROUP_LOSS),
        GROUP_HMR_SCORER: Arm(GROUP_LOSS, "hmr-scorer"),
        DPO: FINALS[DPO],
        SFT: FINALS[SFT],
        **{f"embedded, {name}": METHODS[name] for name in sizes.methods},
    }
    sized = {name: dataclasses.replace(arm, images=sizes.align) for name, arm in arms.items()}
    return {**sized, MORE: dataclasses.replace(METHODS["resample"], images=sizes.more)}


@dataclass(frozen=True)
class _Runs:
    """The reports of a study by row: an arm, the base or the ceiling."""

    runs: StudyRuns
    sizes: TableSizes

    def values(self, row: str, metric: str, reduction: str) -> Float[np.ndarray, "seeds images"]:
        return np.stack([report.values[metric][reduction] for report in self._reports(row)])

    def _reports(self, row: str) -> list[Report]:
        if row == "base":
            return [scales[0] for scales in self.runs.bases]
        return self.runs.ceiling if row == CEILING_NAME else self.runs.arms[row]

    def row(self, name: str, columns: Mapping[str, tuple[str, str]], theirs: Mapping[str, float]) -> TableRow:
        cells = {key: bootstrap_mean(self.values(name, *where)) for key, where in columns.items()}
        return TableRow(TITLES[name], cells, theirs, uses_truth=name == CEILING_NAME)

    def less(self, better: str, worse: str, metric: str, reduction: str) -> Interval | None:
        """Millimetres that the first row is below the second, paired by image and seed."""
        return bootstrap_mean(self.values(worse, metric, reduction) - self.values(better, metric, reduction))

    def claim(self, better: str, worse: str) -> Claim:
        count = 100 if 100 in self.sizes.counts else self.sizes.study.samples
        sentence = f"{TITLES[better]} is below {TITLES[worse]} (MPJPE, minimum over {count}, mm)"
        return Claim(sentence, self.less(better, worse, MPJPE, f"min{count}"))

    @property
    def protocol(self) -> str:
        seeds = ", ".join(map(str, self.sizes.seeds))
        made = self.runs.made_from
        return (
            f"street-test, {self.sizes.study.test} images, seeds {seeds}; 24 joints, pelvis-aligned, mm; PA: "
            f"similarity Procrustes per hypothesis; M = {', '.join(map(str, self.sizes.counts))}; aligned on "
            f"{self.sizes.align} images of street-align; base policy {made['base policy']}, benchmark "
            f"{made['benchmark']}"
        )


def _columns(sizes: TableSizes) -> tuple[list[Column], dict[str, tuple[str, str]]]:
    where = {f"min{count}": (MPJPE, f"min{count}") for count in sizes.counts}
    where |= {f"pa{sizes.study.samples}": (PA_MPJPE, f"min{sizes.study.samples}")}
    where |= {name: (MPJPE, name) for name in ("mean", "hyp0", "averaged")}
    titles = {"mean": "mean", "hyp0": "hypothesis 0", "averaged": "averaged pose"}
    columns = [
        Column(key, f"{METRIC_NAMES[metric]}, {titles.get(reduction, f'M={reduction[3:]}')}")
        for key, (metric, reduction) in where.items()
    ]
    return columns, where


def alignment_table(runs: StudyRuns, sizes: TableSizes) -> ResultTable:
    """Table 1: the base, ADHMR's recipe, the paper's method, ours, ours with more images, and the ceiling."""
    given, (columns, where) = _Runs(runs, sizes), _columns(sizes)
    theirs = {
        "base": paper.ALIGNMENT["base"], ADHMR: paper.ALIGNMENT["adhmr"], GROUP_AGENT: paper.ALIGNMENT["ours"],
        MORE: paper.ALIGNMENT["more"],
    }  # fmt: skip
    extra = [f"embedded, {name}" for name in sizes.methods]
    names = ["base", ADHMR, GROUP_AGENT, OURS, *extra, MORE, CEILING_NAME]
    return ResultTable(
        "table-1",
        "Alignment on images without labels",
        given.protocol,
        columns,
        paper.ALIGNMENT_COLUMNS,
        paper.ALIGNMENT_SOURCE,
        [given.row(name, where, theirs.get(name, {})) for name in names],
        [
            given.claim(ADHMR, "base"),
            given.claim(GROUP_AGENT, ADHMR),
            given.claim(OURS, ADHMR),
            given.claim(MORE, OURS),
            given.claim(CEILING_NAME, OURS),
        ],
    )


def training_table(runs: StudyRuns, sizes: TableSizes) -> ResultTable:
    """Table 2: what the critic and the loss contribute."""
    given, (columns, where) = _Runs(runs, sizes), _columns(sizes)
    theirs = {
        "base": paper.TRAINING["base"], SFT: paper.TRAINING["sft"], DPO: paper.TRAINING["dpo, agent"],
        GROUP_HMR_SCORER: paper.TRAINING["group loss, hmr-scorer"],
        GROUP_AGENT: paper.TRAINING["group loss, agent"],
    }  # fmt: skip
    names = ["base", SFT, GROUP_HMR_SCORER, DPO, GROUP_AGENT, OURS]
    return ResultTable(
        "table-2",
        "Critic and loss",
        given.protocol,
        columns,
        paper.TRAINING_COLUMNS,
        paper.TRAINING_SOURCE,
        [given.row(name, where, theirs.get(name, {})) for name in names],
        [
            given.claim(SFT, "base"),
            given.claim(GROUP_HMR_SCORER, SFT),
            given.claim(DPO, GROUP_HMR_SCORER),
            given.claim(GROUP_AGENT, DPO),
            given.claim(OURS, GROUP_AGENT),
        ],
    )


def headroom_table(runs: StudyRuns, sizes: TableSizes) -> ResultTable:
    """The share of the ceiling's gain that every arm recovers (docs/reference/measures.md)."""
    given, samples = _Runs(runs, sizes), sizes.study.samples
    where = {"hyp0": "hypothesis 0", "averaged": "averaged pose", f"min{samples}": f"minimum over {samples}"}
    rows = [
        TableRow(
            TITLES[name],
            {
                key: recovered_share(
                    given.values("base", MPJPE, key),
                    given.values(name, MPJPE, key),
                    given.values(CEILING_NAME, MPJPE, key),
                )
                for key in where
            },
        )
        for name in runs.arms
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
    )
