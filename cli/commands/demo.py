"""`meshcritic demo`: the whole loop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.console import console, say, stages
from cli.options import Json, Out, PolicyDir

__all__ = ["demo"]

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"


def demo(
    out: Out = Path("runs/demo"),
    config: Annotated[
        Path | None, typer.Option(help="Sizes and alignment; default: configs/demo.yaml.")
    ] = None,
    policy: PolicyDir = None,
    as_json: Json = False,
) -> None:
    """The whole loop: wild images, hypotheses, critique, groups, alignment, evaluation.

    Example: `meshcritic demo --out runs/demo`
    """
    start = time.perf_counter()
    from eval.benchmark.tables import rich_table
    from eval.pipelines.demo import Demo
    from eval.pipelines.demo_outputs import write_demo
    from eval.pipelines.demo_settings import read_settings

    settings = read_settings(config or CONFIG)
    with stages() as stage, Demo(out, settings, stage, policy) as run:
        result = run.run()
        rows, metrics = write_demo(run, result, time.perf_counter() - start)
    for title in result.reused:
        say(f"reused from an earlier run: {title}")
    if as_json:
        print(json.dumps(metrics))
        return
    console().print(rich_table(rows))
    critic = next(iter(metrics["seeds"].values()))["critic"]
    say(
        f"critic, first seed: SRCC {critic['srcc']:.3f}, KRCC {critic['krcc']:.3f}, PLCC {critic['plcc']:.3f}"
    )
    say(f"{metrics['wall_s'] / 60:.1f} min, {metrics['peak_mib']} MiB at most")
    say(f"look at {out / 'report.html'}; figures in {out / 'metrics.json'}")
