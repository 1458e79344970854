"""Makes the figures of docs/feasibility.md.

python -m benchmarks.feasibility --memory runs/demo/memory --out runs/feasibility
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval.commands.console import stages
from eval.feasibility import VARIANTS, OracleSeed, OracleStudy, judge, rank_agreements
from eval.intervals import Interval
from eval.settings import read_settings
from eval.tables import Row, compare, markdown_table, rich_table
from hmr.body import Body, load_body
from hmr.checkpoint import load_policy
from hmr.data.benchmark import draw_split
from hmr.data.store import read_labelled, set_digest
from hmr.policy import DiffusionPolicy
from hmr.progress import Stage

SPLITS = ("lab-test", "wild-test", "wild-train")  # the RankNet's fit, all figures, the oracle's alignment

Agreements = dict[str, dict[str, Interval | None]]  # by detections, then by who ranks


def main(
    memory: Annotated[Path, typer.Option(help="An explored memory.")] = Path("runs/demo/memory"),
    out: Path = Path("runs/feasibility"),
    images: Annotated[
        int, typer.Option(min=2, help="Of lab-test, of wild-test and of wild-train each.")
    ] = 200,
    samples: Annotated[int, typer.Option(min=2, help="M, hypotheses a held-out image.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Oracle runs.")] = 3,
) -> None:
    policy, body = load_policy(), load_body()
    with stages() as stage:
        sets = _draw(out, images, stage)
        agreements = _agreements(policy, body, sets, memory, stage)
        alignment = read_settings(Path(__file__).parent.parent / "configs" / "demo.yaml").alignment
        study = OracleStudy(
            policy, body, sets["wild-train"], sets["wild-test"], out, alignment, samples, stage
        )
        runs = [study.run(seed) for seed in range(seeds)]
    tables = _tables(runs)
    _print(agreements, tables, runs, images)
    found = {
        "srcc": {
            name: {what: _numbers(i) for what, i in table.items()} for name, table in agreements.items()
        },
        "alignment": {"seeds": [_seed_summary(run) for run in runs], "differences": _differences(tables)},
        "base_policy": policy.digest(),
        "benchmark": set_digest(sets["wild-test"]),
    }
    (out / "feasibility.json").write_text(json.dumps(found, indent=1))
    (out / "alignment.md").write_text("\n".join(markdown_table(rows) for rows in tables))


def _draw(out: Path, images: int, stage: Stage) -> dict[str, Path]:
    """The oracle reads what nobody else may: the truth of `wild-train`."""
    sets = {}
    for name in SPLITS:
        tick = stage(f"drawing {images} scenes of {name}", images)
        sets[name] = draw_split(name, out, images, uses_truth=name == "wild-train", progress=tick)
    return sets


def _agreements(
    policy: DiffusionPolicy, body: Body, sets: Mapping[str, Path], memory: Path, stage: Stage
) -> Agreements:
    """SRCC on wild groups with what the policy's encoder detects, then with true detections."""
    found = {}
    for name, truth in (("detected", False), ("true keypoints and mask", True)):
        lab, wild = (
            judge(policy, body, read_labelled(sets[which]), memory, stage, f"judging {which}, {name}", truth)
            for which in ("lab-test", "wild-test")
        )
        found[name] = rank_agreements(lab, wild)
    return found


def _tables(runs: Sequence[OracleSeed]) -> tuple[list[Row], list[Row]]:
    """Oracle and matched base against the base; the oracle against the matched base. Nobody picks here."""
    reports = {variant: [run.reports[variant] for run in runs] for variant in VARIANTS}
    fair = {variant: reports[variant] for variant in ("matched base", "oracle")}
    tables = compare(reports), compare(fair, reference="matched base")
    against_base, against_matched = ([row for row in rows if any(row.values.values())] for rows in tables)
    return against_base, against_matched


def _print(
    agreements: Agreements, tables: Sequence[Sequence[Row]], runs: Sequence[OracleSeed], images: int
) -> None:
    console = Console(width=160)
    for name, table in agreements.items():
        console.print(f"\nSRCC against MPJPE on {images} wild groups, {name}")
        for what, interval in table.items():
            console.print(f"  {what:32s} {_show(interval)}")
    for rows in tables:
        console.print(rich_table(rows))
    for seed, run in enumerate(runs):
        spreads = ", ".join(f"{name} {report.spread_mm():.1f}" for name, report in run.reports.items())
        console.print(
            f"seed {seed}: noise scale {run.noise_scale:.3f}; spread over all joints, mm: {spreads}"
        )


def _seed_summary(run: OracleSeed) -> dict[str, Any]:
    reports = {
        name: {**report.summary(), "spread_mm": report.spread_mm()} for name, report in run.reports.items()
    }
    return {**reports, "noise_scale": run.noise_scale}


def _differences(tables: Sequence[Sequence[Row]]) -> dict[str, dict[str, list[float] | None]]:
    """By measure, then by pair: mean and 95 % interval."""
    against_base, fair = tables
    return {
        row.label: {
            **{f"{variant} - base": _numbers(i) for variant, i in row.differences.items()},
            "oracle - matched base": _numbers(other.differences["oracle"]),
        }
        for row, other in zip(against_base, fair, strict=True)
    }


def _numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.mean, interval.low, interval.high]


def _show(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f}  [{interval.low:+.3f}, {interval.high:+.3f}]"


if __name__ == "__main__":
    typer.run(main)
