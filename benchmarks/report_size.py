"""The size of a report with many cases, and the time in which Chromium opens it.

    python -m benchmarks.report_size [--cases 300] [--group 20] [--drawn 4] [--keep FILE]

`--drawn` scenes are rendered, critiqued by the embedded agent and drawn with all their hypotheses. They are repeated,
with their errors permuted, until there are enough cases; equal pictures take as much of the file as different ones, and
the browser decodes only those of the case that it shows. `benchmarks.chromium` opens the report and measures the time.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.default import default_agent, open_default_memory
from agent.tracing.records import Trace
from benchmarks.chromium import measure_opening
from common.seeding import derive_generator
from common.storage.versions import versions
from eval.report.run import (
    PictureSize,
    ReportCase,
    ReportData,
    draw_case,
    picture_size,
    with_replies,
    write_report,
)
from hmr.body.model import load_body
from hmr.metrics.errors import mpjpe_mm
from hmr.policy.checkpoint import load_policy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import SceneMaker


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--group", type=int, default=20, help="hypotheses per case")
    parser.add_argument("--drawn", type=int, default=4, help="different cases")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="keep the report in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "report.html"
        drawn = draw_cases(
            options.drawn, options.group, picture_size(options.cases * options.group), Path(folder)
        )
        write_report(
            path, ReportData("Size of a report", {}, versions(), cases=repeated(drawn, options.cases))
        )
        print(f"{options.cases} cases of {options.group}: {path.stat().st_size / 1e6:.1f} MB")
        measure_opening(path, options.runs)


def draw_cases(count: int, group_size: int, size: PictureSize, folder: Path) -> Sequence[ReportCase]:
    policy, body = load_policy(), load_body()
    cases = []
    with (
        Trace(folder / "trace.jsonl") as trace,
        open_default_memory(folder / "memory", policy, frozen=False) as memory,
    ):
        agent = default_agent(policy, body, memory, trace=trace)
        for index, scene in enumerate(SceneMaker(body, WILD, seed=11).chunk(0, count)):
            sample, truth = scene.labelled.sample, scene.labelled.truth
            generator = derive_generator("report size", sample.id)
            group = policy.sample(policy.encode([sample]), group_size, generator)[0]
            errors = mpjpe_mm(body.joints(group.params), truth.joints_cam_m).tolist()
            critique = agent.critique(sample, group)
            cases.append(
                draw_case(
                    f"image {sample.id}", sample, group, critique,
                    body=body, renderer=agent.renderer, errors_mm=errors, size=size,
                )
            )  # fmt: skip
            print(f"drawn: {index + 1} of {count}", flush=True)
    return with_replies(cases, folder / "trace.jsonl")


def repeated(drawn: Sequence[ReportCase], count: int) -> tuple[ReportCase, ...]:
    """`count` cases; each has the errors of its original in another order."""
    shuffle = random.Random(0)
    return tuple(
        replace(
            case,
            title=f"case {index + 1}",
            errors_mm=tuple(shuffle.sample(case.errors_mm or (), len(case.pictures))),
        )
        for index in range(count)
        for case in [drawn[index % len(drawn)]]
    )


if __name__ == "__main__":
    main()
