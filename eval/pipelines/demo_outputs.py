"""Writes the results of a demo: metrics.json, and report.html from its first stage on, with what is known by then."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.agent import CritiqueAgent
from common.seeding import derive_generator
from common.storage.files import write_text
from common.storage.versions import versions
from eval.benchmark.headroom import recovered_headroom
from eval.benchmark.intervals import Interval
from eval.benchmark.measures.joint_errors import JointErrors, joint_errors
from eval.benchmark.protocol import PROTOCOL, Report
from eval.benchmark.tables import Row, compare, label
from eval.critics.agreement import critic_agreement
from eval.pipelines.demo import PHOTOGRAPHS, TRACE, Demo, DemoResult
from eval.report.run import (
    Chart,
    PersonPictures,
    Progress,
    ReportCase,
    ReportData,
    alignment_charts,
    draw_case,
    draw_heat_maps,
    draw_person,
    occlusion_chart,
    paired_chart,
    picture_size,
    with_replies,
    write_report,
)
from hmr.metrics.errors import mpjpe_mm
from hmr.render import load_renderer
from hmr.synthetic.store import read_labelled
from hmr.types import BodyParams, Labelled

__all__ = ["DemoPage", "metrics_of", "peak_mib"]

NOTES = (
    "Bodies, scenes and the policy are the embedded defaults; these results do not transfer to SMPL data sets.",
    "narrowed: the base with less starting noise, at the spread of the aligned policy. A narrower spread alone "
    "lowers every mean error, but not hypothesis 0, the averaged pose or the minimum over all samples.",
    "shuffled: aligned in the same way on the same scores, permuted at random within each group.",
    "labels: the base after sixteen passes over the truth of the images that were aligned on, the upper bound.",
)
UNCERTAIN_SHARE = 2.0  # width of an interval, as a share of what labels gain
SHOWN_PEOPLE = 3  # with pictures before and after alignment
BY_JOINT = ("base", "aligned", "labels")  # variants with the errors of their joints


class DemoPage:
    """The report of a demo while it runs, and its results at the end."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.cases: tuple[ReportCase, ...] = ()  # drawn once, as soon as the critic has its memory

    def begin(self, progress: Progress) -> None:
        """Write the page before a stage (`Demo.run`)."""
        self._write(_page(self.demo, self._drawn_cases(), progress=progress))

    def finish(self, result: DemoResult, wall_s: float) -> tuple[list[Row], dict[str, Any]]:
        """Write both files. Returns the rows of the table and the content of metrics.json."""
        metrics = metrics_of(self.demo, result, wall_s)
        write_text(self.demo.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        page = _page(self.demo, self._drawn_cases(), metrics)
        notes = (*page.notes, *_recovered_sentences(self.demo, result))
        self._write(replace(page, people=tuple(_changed(self.demo)), notes=notes))
        return list(page.rows), metrics

    def _drawn_cases(self) -> tuple[ReportCase, ...]:
        if self.demo.agent is not None and not self.cases:
            self.cases = _cases(self.demo, self.demo.agent)
        return self.cases

    def _write(self, page: ReportData) -> None:
        self.demo.out.mkdir(parents=True, exist_ok=True)
        write_report(self.demo.out / "report.html", page)


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
    demo: Demo,
    cases: tuple[ReportCase, ...],
    metrics: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """What is known of the run. metrics: after its end; progress: before."""
    reports, agent = _complete(demo.reports), demo.agent
    by_joint = {name: joint_errors(reports[name]) for name in BY_JOINT if name in reports}
    groups = [group for report in reports.get("base", ()) for group in report.groups]
    return ReportData(
        title="Demo of the whole loop",
        facts=_facts(demo, metrics),
        versions=versions(),
        rows=tuple(compare(reports)) if len(reports) > 1 else (),
        charts=(*_paired(reports), *_occlusion(by_joint), *alignment_charts(demo.logs())),
        heat_maps=draw_heat_maps(
            {name: found.all_mm for name, found in by_joint.items()}, demo.body, load_renderer()
        ),
        critic=critic_agreement(groups) if groups else None,
        cases=cases,
        rules=tuple(agent.rules.all()) if agent is not None else (),
        protocol=PROTOCOL,
        notes=NOTES
        + (f"Photographs, with the shipped policy: {PHOTOGRAPHS}/photos.html",) * bool(demo.settings.photos),
        progress=progress,
    )


def _facts(demo: Demo, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    facts = {
        "seeds": ", ".join(map(str, demo.settings.seeds)),
        "base policy": demo.policy.digest(),
        "images": f"{demo.settings.align_images} of {demo.gap.align} to align on, "
        f"{demo.settings.test_images} of {demo.gap.test} held out",
    }
    if demo.scenes:
        facts["benchmark"] = demo.benchmark
    if demo.agent is not None:
        facts["critic"] = demo.agent.name
    if metrics is not None:
        facts["wall time"] = f"{metrics['wall_s'] / 60:.1f} min"
        facts["peak memory"] = f"{metrics['peak_mib']} MiB"
    return facts


def _complete(reports: Mapping[str, Sequence[Report]]) -> dict[str, Sequence[Report]]:
    """The variants that are evaluated, each with the same seeds, so that they can be compared."""
    known = {name: runs for name, runs in reports.items() if runs}
    seeds = min(map(len, known.values()), default=0)
    return {name: runs[:seeds] for name, runs in known.items()}


def _paired(reports: Mapping[str, Sequence[Report]]) -> Iterator[Chart]:
    """Hypothesis 0 of the first seed."""
    if len(reports) > 1:
        errors = {name: runs[0].values["mpjpe_mm"]["hyp0"] for name, runs in reports.items()}
        yield paired_chart(errors, reports["base"][0].sample_ids, label("mpjpe_mm", "hyp0"))


def _occlusion(by_joint: Mapping[str, JointErrors]) -> Iterator[Chart]:
    """Nothing if no joint was hidden in one image and visible in another."""
    chart = occlusion_chart(by_joint)
    if any(line.x for line in chart.lines):
        yield chart


def _recovered_sentences(demo: Demo, result: DemoResult) -> Iterator[str]:
    """What was recovered of the headroom, a sentence per measure."""
    for name, interval in recovered(demo, result)["aligned"].items():
        if interval is not None:
            uncertain = interval.high - interval.low > UNCERTAIN_SHARE
            yield (
                f"Of what labels gain in {label('mpjpe_mm', name)}, the scores recover {interval.mean:.0%} "
                f"({interval.low:.0%} to {interval.high:.0%})"
                f"{': labels gain too little on so few images to say more' if uncertain else ''}."
            )


def _changed(demo: Demo) -> Iterator[PersonPictures]:
    """Hypothesis 0 of the first held-out images before and after the alignment of the first seed."""
    for labelled in _held_out(demo)[:SHOWN_PEOPLE]:
        sample = labelled.sample
        zero = [
            policy.sample(policy.encode([sample]), 1, derive_generator("shown", sample.id))[0].params
            for policy in (demo.policy, demo.aligned[0])
        ]
        bodies = BodyParams.cat(zero)
        errors = mpjpe_mm(demo.body.joints(bodies), labelled.truth.joints_cam_m).tolist()
        before, after = (f"{error:.0f} mm from the truth" for error in errors)
        title = f"{demo.gap.test}, image {sample.id}"
        yield draw_person(title, sample, bodies, demo.body, load_renderer(), (before, after))


def _held_out(demo: Demo) -> list[Labelled]:
    return read_labelled(demo.scenes[demo.gap.test])


def _cases(demo: Demo, agent: CritiqueAgent) -> tuple[ReportCase, ...]:
    """The first held-out images, critiqued and drawn with all hypotheses of a group of the base policy."""
    shown, cases = _held_out(demo)[: demo.settings.shown_cases], []
    size = picture_size(len(shown) * demo.settings.group_size)
    tick = demo.stage(f"critiquing and drawing {len(shown)} cases of the report", len(shown))
    for labelled in shown:
        sample = labelled.sample
        generator = derive_generator("shown", sample.id)
        group = demo.policy.sample(demo.policy.encode([sample]), demo.settings.group_size, generator)[0]
        errors = mpjpe_mm(demo.body.joints(group.params), labelled.truth.joints_cam_m)
        cases.append(
            draw_case(
                f"{demo.gap.test}, image {sample.id}",
                sample,
                group,
                agent.critique(sample, group),
                body=demo.body,
                renderer=agent.renderer,
                errors_mm=errors.tolist(),
                size=size,
            )
        )
        tick(len(cases))
    return with_replies(cases, demo.out / TRACE)
