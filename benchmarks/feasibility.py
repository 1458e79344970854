"""Makes the figures of docs/feasibility.md.

python -m benchmarks.feasibility --memory runs/demo/memory --out runs/feasibility
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eval.demo import Stage
from eval.feasibility import align_on_truth, judge, rank_agreements, spread_matched
from eval.intervals import Interval
from eval.protocol import evaluate_policy
from eval.settings import read_settings
from eval.tables import baseline_table
from hmr.body import load_body
from hmr.checkpoint import load_policy
from hmr.data.recipe import LAB, WILD
from hmr.data.store import make_scenes, read_labelled, set_digest
from meshcritic import _stages

LAB_SEED, WILD_SEED, ALIGN_SEED = 31, 32, 33


def main(
    memory: Annotated[Path, typer.Option(help="An explored memory.")] = Path("runs/demo/memory"),
    out: Path = Path("runs/feasibility"),
    images: int = 200,
    samples: int = 100,
) -> None:
    policy, body = load_policy(), load_body()
    console = Console(width=140)
    with _stages() as stage:
        sets = _draw(out, images, stage)
        cases = {name: read_labelled(folder) for name, folder in sets.items()}
        agreements = {}
        for truth in (False, True):
            lab, wild = (
                judge(
                    policy,
                    body,
                    cases[name],
                    memory,
                    stage,
                    f"judging {name}, true detections: {truth}",
                    truth,
                )
                for name in ("lab", "wild")
            )
            agreements["true keypoints and mask" if truth else "detected"] = rank_agreements(lab, wild)
        alignment = read_settings(Path(__file__).parent.parent / "configs" / "demo.yaml").alignment
        oracle = align_on_truth(policy, body, cases["align"], out, alignment)
        tick = stage("evaluating base and oracle", 2 * images)
        held_out = cases["wild"]
        reports = {"base": evaluate_policy(policy, body, held_out, num_samples=samples, seed=0)}
        tick(images)
        reports["oracle (uses_truth)"] = evaluate_policy(oracle, body, held_out, num_samples=samples, seed=0)
        tick(2 * images)
        target = reports["oracle (uses_truth)"].summary()["spread_visible_mm"]
        assert isinstance(target, float)
        scale, reports["base, matched spread"] = spread_matched(policy, body, held_out, target, samples)
    for name, table in agreements.items():
        console.print(f"\nSRCC against MPJPE on {images} wild groups, {name}")
        for what, interval in table.items():
            console.print(f"  {what:32s} {_show(interval)}")
    console.print(baseline_table(reports))
    console.print(
        f"noise scale of matched spread {scale:.3f}; base policy {policy.digest()}; "
        f"benchmark {set_digest(sets['wild'])}"
    )
    found = {
        name: {what: i and [i.mean, i.low, i.high] for what, i in table.items()}
        for name, table in agreements.items()
    }
    summary = {
        "srcc": found,
        "alignment": {name: report.summary() for name, report in reports.items()},
        "noise_scale": scale,
    }
    (out / "feasibility.json").write_text(json.dumps(summary, indent=1))


def _draw(out: Path, images: int, stage: Stage) -> dict[str, Path]:
    sets = {}
    for name, recipe, seed in (
        ("lab", LAB, LAB_SEED),
        ("wild", WILD, WILD_SEED),
        ("align", WILD, ALIGN_SEED),
    ):
        tick = stage(f"drawing {images} scenes: {name}", images)
        sets[name] = make_scenes(out / f"{name}-{images}", recipe, seed, images, progress=tick)
    return sets


def _show(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:+.3f}  [{interval.low:+.3f}, {interval.high:+.3f}]"


if __name__ == "__main__":
    typer.run(main)
