"""`meshcritic demo`: runs the whole pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cli.console import console, print_json, print_message, report_lost_questions, stages
from cli.options import WORKERS, Json, Out, PolicyDir, config_file
from common.storage.files import CONFIGS
from common.storage.locks import single_run

__all__ = ["demo"]


def demo(
    out: Out = Path("runs/demo"),
    config: Annotated[
        Path | None,
        config_file("YAML file with numbers of images and training arguments. Default: configs/demo.yaml."),
    ] = None,
    policy: PolicyDir = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline: render images, sample hypotheses, critique them, align the policy, evaluate it.

    Takes four to five minutes on two idle CPU cores. Stages that an earlier run finished in the same folder are reused.
    OUT/report.html is there from the first stage on and is written again after each: reload it to see more.

    Example: `meshcritic demo --out runs/demo`
    """
    start = time.perf_counter()
    from eval.benchmark.tables import label, rich_table
    from eval.pipelines.demo import PHOTOGRAPHS, Demo, read_demo_settings
    from eval.pipelines.demo_outputs import DemoPage

    settings = read_demo_settings(config or CONFIGS / "demo.yaml")
    with (
        single_run(out),
        report_lost_questions(),
        stages() as stage,
        Demo(out, settings, stage, policy, WORKERS) as run,
    ):
        page = DemoPage(run)
        result = run.run(page.begin)
        rows, metrics = page.finish(result, time.perf_counter() - start)
    for title in result.reused:
        print_message(f"reused from an earlier run: {title}")
    if as_json:
        print_json(metrics)
        return
    console().print(rich_table(rows))
    for name, share in metrics["recovered"]["aligned"].items():
        if share is not None:
            print_message(
                f"recovered of what labels gain in {label('mpjpe_mm', name)}: {share[0]:.0%} ({share[1]:.0%} to "
                f"{share[2]:.0%})"
            )
    critic = next(iter(metrics["seeds"].values()))["critic"]
    print_message(
        f"critic, first seed: SRCC {critic['srcc']:.3f}, KRCC {critic['krcc']:.3f}, PLCC {critic['plcc']:.3f}"
    )
    print_message(f"{metrics['wall_s'] / 60:.1f} min, peak memory {metrics['peak_mib']} MiB")
    print_message(f"report: {out / 'report.html'}; metrics: {out / 'metrics.json'}")
    if settings.photos is not None:
        print_message(f"photographs: {out / PHOTOGRAPHS / 'photos.html'}")
