"""Aligns a policy on the people in a folder of photographs, without labels; `meshcritic align --photos DIR`.

    OUT/people/            what the detector found in each photograph (hmr.detection.photo_people)
    OUT/memory/seed-rules  the memory of an agent without --memory
    OUT/...                groups, policy and alignment.json, as from scenes (eval.pipelines.alignment)
    OUT/photos.json, .html the policy before and after alignment (eval.pipelines.photo_report)

One person in `HELD_OUT` is not aligned on; a hash of the id decides who. The critic reads the people with the detector
that found them. Rendered people teach it nothing, because detectors of photographs do not read them: without an
explored memory the agent therefore has its seed rules, and critics that are fitted on scenes are refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.default import open_default_memory
from agent.vlm.wrappers.dry_run import DryRun
from common.progress import Stage
from common.seeding import derive_seed
from common.storage.fingerprint import file_digest
from eval.pipelines.align_claim import check_folder
from eval.pipelines.align_settings import HMR_SCORER, AlignSettings
from eval.pipelines.alignment import check_settings, count_calls, load_alignment_body, run_alignment
from eval.pipelines.photo_report import PhotoReport, write_photo_report
from hmr.detection.keypoints.file_detector import KeypointFileDetector
from hmr.detection.keypoints.files import read_annotations
from hmr.detection.photo_people.folder import PhotoPeople, PhotoPerson, find_in_folder
from hmr.detection.photo_people.known import KnownPeople
from hmr.images.photographs import photo_size
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detection

__all__ = ["HELD_OUT", "Photographs", "align_on_photographs", "count_calls_on_photographs", "split_people"]

HELD_OUT = 5  # one person in five


@dataclass(frozen=True)
class Photographs:
    """A folder of photographs, and a file of COCO's annotations of some of them, for the report alone."""

    folder: Path
    keypoints: Path | None = None
    report: Callable[[str], None] = field(default=lambda line: None)  # receives messages


def align_on_photographs(
    policy: DiffusionPolicy, photographs: Photographs, settings: AlignSettings, out: Path, stage: Stage
) -> DiffusionPolicy:
    """The aligned policy, also saved in `out`. A second run computes only what is missing.

    policy: with the detector for the photographs, which is then replaced by one that does not read people twice.

    Raises ValueError for settings that need a truth or scenes, and what `load_alignment_body`, the search,
    `read_annotations` and `run_alignment` raise.
    """
    _check(policy, settings, out)
    body = load_alignment_body(policy, settings)
    check_folder(policy, settings, out, images=None)
    lines: list[str] = []
    people = _find(policy, photographs, out, stage, lines)
    annotated = _annotated(photographs.keypoints, people)
    held_out, aligned_on = map(PhotoPeople, split_people(people.people, settings.rounds.seed))
    run = _with_seed_rules(replace(settings, images=len(aligned_on)), policy, out)
    aligned = run_alignment(policy, run, out, stage, people=aligned_on)
    report = PhotoReport(
        photos=photographs.folder.name,
        keypoints=photographs.keypoints and photographs.keypoints.name,
        held_out=held_out,
        aligned_on=aligned_on,
        annotated=annotated,
        rounds=settings.rounds,
        messages=tuple(lines),
    )
    write_photo_report(report, policy, aligned, body, out, stage)
    return aligned


def count_calls_on_photographs(
    policy: DiffusionPolicy, photographs: Photographs, settings: AlignSettings, stage: Stage
) -> DryRun:
    """Count the calls that a run in an empty folder makes to its backend. People are searched for; no backend is called
    and no file is kept. Raises what `align_on_photographs` and `count_calls` raise."""
    with tempfile.TemporaryDirectory() as empty:
        out = Path(empty)
        _check(policy, settings, out)
        load_alignment_body(policy, settings)  # its errors come before the search
        people = _find(policy, photographs, out, stage, [])
        _, aligned_on = map(PhotoPeople, split_people(people.people, settings.rounds.seed))
        run = _with_seed_rules(replace(settings, images=len(aligned_on)), policy, out)
        return count_calls(policy, run, stage, people=aligned_on)


def split_people(
    people: Sequence[PhotoPerson], seed: int
) -> tuple[Sequence[PhotoPerson], Sequence[PhotoPerson]]:
    """Who is held out, nobody of fewer than `HELD_OUT` people, and who is aligned on."""
    order = sorted(people, key=lambda person: derive_seed(seed, "held out", person.id))
    chosen = {person.id for person in order[: len(order) // HELD_OUT]}
    return [one for one in people if one.id in chosen], [one for one in people if one.id not in chosen]


def _check(policy: DiffusionPolicy, settings: AlignSettings, out: Path) -> None:
    """Before anybody is searched for."""
    if settings.uses_truth:
        raise ValueError(
            f"the critic {settings.critic} reads the ground truth, which photographs do not have; --photos takes a "
            "backend such as embedded, reward:FILE.py:NAME, or either of them shuffled"
        )
    if settings.base_critic == HMR_SCORER:
        raise ValueError(
            f"the critic {HMR_SCORER} is fitted on rendered scenes, which the detector {policy.detector.name} of "
            "--photos does not read"
        )
    if settings.base != AlignSettings.base:
        raise ValueError(
            f"--base {settings.base} reads detections of rendered scenes; --photos takes --base {AlignSettings.base}, "
            "or a policy of your own with --policy"
        )
    if settings.motion is not None:
        raise ValueError("--motion poses rendered scenes; it cannot be combined with --photos")
    if settings.alignment.get("replay_weight") and not settings.alignment.get("replay_file"):
        raise ValueError(
            "replay_weight replays rendered scenes, which the detector of --photos does not read; give a replay_file "
            "of another run, or leave replay_weight out"
        )
    check_settings(policy, settings, out)


def _find(
    policy: DiffusionPolicy, photographs: Photographs, out: Path, stage: Stage, lines: list[str]
) -> PhotoPeople:
    """The people, whom the policy's detector knows from now on; `lines` receives the messages of the search."""

    def report(line: str) -> None:
        lines.append(line)
        photographs.report(line)

    people = find_in_folder(photographs.folder, policy.detector, out / "people", stage, report, out)
    policy.detector = KnownPeople(policy.detector, people.boxes)
    return people


def _annotated(keypoints: Path | None, people: PhotoPeople) -> Mapping[str, Detection]:
    """The annotated points of the people who have any, by the id of the sample."""
    if keypoints is None:
        return {}
    photos = list(dict.fromkeys(person.photo for person in people.people))
    found, file = read_annotations(keypoints, photos), (keypoints.name, file_digest(keypoints))
    detectors = {
        photo: KeypointFileDetector(file, known, photo_size(photo)) for photo, known in found.items()
    }
    points = {
        person.id: detectors[person.photo].detect(sample)
        for person, sample in zip(people.people, people, strict=True)
        if person.photo in detectors
    }
    annotated = {name: one for name, one in points.items() if one.observed.any()}
    if not annotated:
        raise ValueError(f"{keypoints} annotates nobody who was found in the photographs")
    return annotated


def _with_seed_rules(settings: AlignSettings, policy: DiffusionPolicy, out: Path) -> AlignSettings:
    """With a memory of the seed rules, if an agent has no other."""
    if settings.memory is not None or not settings.uses_backend:
        return settings
    folder = out / "memory" / "seed-rules"
    with open_default_memory(folder, policy, frozen=False):
        return replace(settings, memory=folder)
