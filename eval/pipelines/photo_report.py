"""A policy before and after alignment on photographs: photos.json, and photos.html with pictures of held-out people.

Both policies start from the same noise. There is no truth; `eval.benchmark.measures.unlabelled` says what each measure
can show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.progress import Stage
from common.seeding import derive_generator
from common.storage.files import write_text
from common.storage.versions import versions
from eval.benchmark.intervals import difference_interval
from eval.benchmark.measures.unlabelled import MEASURES, Measures, measure_unlabelled
from eval.report.run import Change, PersonPictures, ReportData, alignment_charts, draw_person, write_report
from hmr.body.model import Body
from hmr.detection.photo_people.folder import PhotoPeople
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.types import BodyParams, Detection, Hypotheses, Renderer, Sample
from rl.monitoring.training_log import read_logs
from rl.rounds import Rounds

__all__ = ["PhotoReport", "write_photo_report"]

SHOWN = 12  # people with pictures
HELD_OUT, ALIGNED_ON = "held out", "aligned on"
CAPTION = "reprojection_percent"
NAMES = {
    "reprojection_px": "distance from the detector's points, px",
    "reprojection_percent": "distance from the detector's points, % of the box",
    "annotated_px": "distance from annotated points, px",
    "annotated_percent": "distance from annotated points, % of the box",
    "silhouette_mismatch": "silhouette mismatch, 0 to 1",
    "joint_limit_excess_deg": "degrees beyond joint limits",
    "spread_mm": "spread, mm",
}
OF = {"hyp0": "hypothesis 0", "mean": "mean of the group", "group": "group"}
NOTES = (
    "The policy is given the detector's points, and the critic reads them too: a smaller distance from them shows that "
    "the policy uses them, not that it is right. The critic reads the mask as well, the policy does not.",
    "Points of a file of annotations are independent of policy and critic. Annotators mark joints on the surface, some "
    "centimetres from the body model's, so the distance of a perfect body is not zero.",
)


@dataclass(frozen=True)
class PhotoReport:
    """What is compared. `annotated`: points by the id of the sample."""

    photos: str  # name of the folder
    keypoints: str | None  # name of the file
    held_out: PhotoPeople
    aligned_on: PhotoPeople
    annotated: Mapping[str, Detection]
    rounds: Rounds  # for the size and the noise of the groups
    messages: tuple[str, ...] = ()  # of the search

    @property
    def shown(self) -> set[str]:
        """Ids of the people with pictures; those aligned on if nobody is held out."""
        return {person.id for person in (self.held_out or self.aligned_on).people[:SHOWN]}


@dataclass(frozen=True)
class _Person:
    sample_id: str
    part: str
    before: Measures
    after: Measures
    pictures: PersonPictures | None


def write_photo_report(
    report: PhotoReport, base: DiffusionPolicy, aligned: DiffusionPolicy, body: Body, out: Path, stage: Stage
) -> None:
    """Write both files to `out`."""
    count = len(report.held_out) + len(report.aligned_on)
    tick, people = stage(f"{count} people before and after alignment", count), []
    for person in _compare(report, base, aligned, body):
        people.append(person)
        tick(len(people))
    changes = _changes(people)
    facts = {
        "photos": report.photos,
        "people": f"{len(report.aligned_on)} aligned on, {len(report.held_out)} held out",
        "detector": base.detector.name,
        "base_policy": base.digest(),
        "policy": aligned.digest(),
        "keypoints": report.keypoints or "none",
        "hypotheses": str(report.rounds.group_size),
    }
    write_text(out / "photos.json", json.dumps(_record(report, facts, changes, people), indent=1))
    names = {name.replace("_", " "): value for name, value in facts.items()}
    pictures = tuple(person.pictures for person in people if person.pictures is not None)
    page = ReportData(
        "Alignment on photographs", names, versions(), charts=alignment_charts(read_logs(out)), changes=tuple(changes),
        people=pictures, notes=(*NOTES, *report.messages),
    )  # fmt: skip
    write_report(out / "photos.html", page)


def _compare(
    report: PhotoReport, base: DiffusionPolicy, aligned: DiffusionPolicy, body: Body
) -> Iterator[_Person]:
    renderer = load_renderer()
    for part, people in ((HELD_OUT, report.held_out), (ALIGNED_ON, report.aligned_on)):
        for sample in people:
            groups = [_group(policy, sample, report.rounds) for policy in (base, aligned)]
            annotated = report.annotated.get(sample.id)
            before, after = (measure_unlabelled(sample, group, body, renderer, annotated) for group in groups)
            pictures = None
            if sample.id in report.shown:
                captions = _caption(before), _caption(after)
                pictures = _draw(f"{sample.id}, {part}", sample, groups, body, renderer, captions)
            yield _Person(sample.id, part, before, after, pictures)


def _group(policy: DiffusionPolicy, sample: Sample, rounds: Rounds) -> Hypotheses:
    generator = derive_generator(rounds.seed, "photo report", sample.id)
    group = policy.sample(policy.encode([sample]), rounds.group_size, generator)[0]
    return Hypotheses(group.params, sample.camera)


def _draw(
    title: str,
    sample: Sample,
    groups: Sequence[Hypotheses],
    body: Body,
    renderer: Renderer,
    captions: tuple[str, str],
) -> PersonPictures:
    bodies = BodyParams.stack([group.params[0] for group in groups])
    return draw_person(title, sample, bodies, body, renderer, captions)


def _caption(measures: Measures) -> str:
    distance = measures.get(CAPTION)
    if distance is None:
        return "The detector calls no joint visible."
    return f"{distance['hyp0']:.1f} % of the box from the detector's points."


def _changes(people: Sequence[_Person]) -> list[Change]:
    """One per part, measure and reduction that was taken for anybody before and after."""
    changes = []
    for part in (HELD_OUT, ALIGNED_ON):
        for measure in MEASURES:
            for of, name in OF.items():
                rows = [
                    (person.before[measure][of], person.after[measure][of])
                    for person in people
                    if person.part == part
                    and all(of in measures.get(measure, {}) for measures in (person.before, person.after))
                ]
                if rows:
                    changes.append(_change(part, f"{NAMES[measure]}, {name}", np.array(rows)))
    return changes


def _change(part: str, measure: str, rows: np.ndarray) -> Change:
    before, after = rows.T
    difference = difference_interval((after - before)[None])
    return Change(part, measure, len(rows), float(before.mean()), float(after.mean()), difference)


def _record(
    report: PhotoReport, facts: Mapping[str, str], changes: Sequence[Change], people: Sequence[_Person]
) -> dict[str, Any]:
    return {
        **facts,
        "people": {"held_out": len(report.held_out), "aligned_on": len(report.aligned_on)},
        "hypotheses": report.rounds.group_size,
        "seed": report.rounds.seed,
        "held_out_digest": report.held_out.digest(),
        "aligned_on_digest": report.aligned_on.digest(),
        "messages": list(report.messages),
        "notes": list(NOTES),
        "changes": [asdict(change) for change in changes],
        "persons": [
            {"id": one.sample_id, "part": one.part, "before": one.before, "after": one.after}
            for one in people
        ],
        "versions": versions(),
    }
