"""Writes the results of a demo: metrics.json and report.html."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.files import write_text
from common.seeding import derive_generator
from common.versions import versions
from eval.benchmark.headroom import recovered_headroom
from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import PROTOCOL
from eval.benchmark.tables import Row, compare
from eval.critics.agreement import CriticAgreement, critic_agreement
from eval.pipelines.demo import PHOTOGRAPHS, Demo, DemoResult
from eval.report import PersonPictures, ReportCase, ReportData, draw_case, draw_person, write_report
from hmr.metrics.errors import mpjpe_mm
from hmr.synthetic.store import read_labelled
from hmr.types import BodyParams, Labelled

__all__ = ["metrics_of", "peak_mib", "write_demo"]


def write_demo(demo: Demo, result: DemoResult, wall_s: float) -> tuple[list[Row], dict[str, Any]]:
    """Write both files to the run's folder. Returns the rows of the table and the content of metrics.json."""
    rows = compare(result.reports)
    metrics = metrics_of(demo, result, wall_s)
    write_text(demo.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    critic = critic_agreement([group for report in result.reports["base"] for group in report.groups])
    write_report(demo.out / "report.html", _page(demo, result, rows, critic, metrics))
    return rows, metrics


def metrics_of(demo: Demo, result: DemoResult, wall_s: float) -> dict[str, Any]:
    """The content of `metrics.json`; `critic` is the agreement with MPJPE on the base policy's groups."""
    seeds = {}
    for index, seed in enumerate(demo.settings.seeds):
        base = result.reports["base"][index]
        seeds[str(seed)] = {
            **{variant: reports[index].summary() for variant, reports in result.reports.items()},
            "critic": critic_agreement(base.groups).summary(),
        }
    return {
        "seeds": seeds,
        "recovered": {
            variant: {name: _numbers(interval) for name, interval in found.items()}
            for variant, found in recovered(demo, result).items()
        },
        "benchmark": result.benchmark,
        "base_policy": result.base_policy,
        "wall_s": round(wall_s, 1),
        "peak_mib": peak_mib(),
        "versions": versions(),
        "seconds": {name: round(seconds, 1) for name, seconds in result.seconds.items()},
        "reused": list(result.reused),
        "protocol": PROTOCOL,
    }


def recovered(demo: Demo, result: DemoResult) -> dict[str, Mapping[str, Interval | None]]:
    """Recovered headroom (`eval.benchmark.headroom`) of every variant between the base and the bound of labels."""
    reports = result.reports
    return {
        variant: recovered_headroom(
            reports["base"], reports[variant], reports["labels"], demo.settings.num_samples
        )
        for variant in ("narrowed", "aligned", "shuffled")
    }


def _numbers(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.mean, interval.low, interval.high]


def peak_mib() -> int:
    """Peak resident memory in MiB, of this process or of a finished child process."""
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kib // 1024


def _page(
    demo: Demo, result: DemoResult, rows: Sequence[Row], critic: CriticAgreement, metrics: Mapping[str, Any]
) -> ReportData:
    agent = demo.agent
    return ReportData(
        title="Demo of the whole loop",
        facts={
            "seeds": ", ".join(map(str, demo.settings.seeds)),
            "benchmark": result.benchmark,
            "base policy": result.base_policy,
            "critic": agent.name,
            "images": f"{demo.settings.align_images} of {demo.gap.align} to align on, "
            f"{demo.settings.test_images} of {demo.gap.test} held out",
            "wall time": f"{metrics['wall_s'] / 60:.1f} min",
            "peak memory": f"{metrics['peak_mib']} MiB",
        },
        versions=metrics["versions"],
        rows=tuple(rows),
        by_image={
            variant: reports[0].values["mpjpe_mm"]["hyp0"] for variant, reports in result.reports.items()
        },
        critic=critic,
        people=tuple(_changed(demo)),
        cases=_cases(demo),
        rules=tuple(agent.rules.all()),
        protocol=PROTOCOL,
        notes=(
            "Bodies, scenes and the policy are the embedded defaults; these results do not transfer to SMPL data sets.",
            "narrowed: the base with less starting noise, at the spread of the aligned policy. A narrower spread alone "
            "lowers every mean error, but not hypothesis 0, the averaged pose or the minimum over all samples.",
            "shuffled: aligned in the same way on the same scores, permuted at random within each group.",
            "labels: the base after as many steps on the truth of the images that were aligned on, the upper bound.",
            *_recovered_sentences(demo, result),
            *(
                [f"Photographs, with the shipped policy: {PHOTOGRAPHS}/photos.html"]
                * bool(demo.settings.photos)
            ),
        ),
    )


def _recovered_sentences(demo: Demo, result: DemoResult) -> Iterator[str]:
    """What was recovered of the headroom, a sentence per measure."""
    for name, interval in recovered(demo, result)["aligned"].items():
        if interval is not None:
            yield (
                f"Of what labels gain in {name}, the scores recover {interval.mean:.0%} "
                f"({interval.low:.0%} to {interval.high:.0%})."
            )


def _changed(demo: Demo) -> Iterator[PersonPictures]:
    """Hypothesis 0 of the first held-out images before and after the alignment of the first seed."""
    for labelled in _shown(demo):
        sample = labelled.sample
        zero = [
            policy.sample(policy.encode([sample]), 1, derive_generator("shown", sample.id))[0].params
            for policy in (demo.policy, demo.aligned[0])
        ]
        bodies = BodyParams.cat(zero)
        errors = mpjpe_mm(demo.body.joints(bodies), labelled.truth.joints_cam_m).tolist()
        before, after = (f"{error:.0f} mm from the truth" for error in errors)
        title = f"{demo.gap.test}, image {sample.id}"
        yield draw_person(title, sample, bodies, demo.body, demo.agent.renderer, (before, after))


def _shown(demo: Demo) -> list[Labelled]:
    return read_labelled(demo.scenes[demo.gap.test])[: demo.settings.shown_cases]


def _cases(demo: Demo) -> tuple[ReportCase, ...]:
    """The first held-out images, critiqued again and drawn."""
    cases = []
    for labelled in _shown(demo):
        sample = labelled.sample
        generator = derive_generator("shown", sample.id)
        features = demo.policy.encode([sample])
        group = demo.policy.sample(features, demo.settings.group_size, generator)[0]
        errors = mpjpe_mm(demo.body.joints(group.params), labelled.truth.joints_cam_m)
        critique = demo.agent.critique(sample, group)
        cases.append(
            draw_case(
                f"{demo.gap.test}, image {sample.id}",
                sample,
                group,
                critique,
                body=demo.body,
                renderer=demo.agent.renderer,
                errors_mm=errors.tolist(),
            )
        )
    return tuple(cases)
