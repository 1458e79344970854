"""Aligns a policy to a critic's scores on images without labels; `meshcritic align` runs `run_alignment`.

`eval.pipelines.align_settings` lists the critics, `eval.pipelines.align_critics` opens them. The base policy decides on
the splits (`hmr.synthetic.splits.GAPS`): `wild-train` for the shipped one, `street-align` for `studio`. A critic that
learns does so on the calibration split of the base's own domain alone, as in `eval.critics.comparison`. If the training
arguments set `replay_weight`, labelled scenes of that domain are replayed beside the images (`rl.labels.body_labels`).
With `AlignSettings.fit` the policy is first aligned to the keypoints of the same images, in the folder `fit`
(`rl.keypoint_fit`). The output folder holds the scenes, the memory, every round (`rl.rounds`), curves.svg and
alignment.json, which records all inputs. The training arguments and the critic (name, settings, file, memory) are
checked, and the folder is claimed (`eval.pipelines.align_claim`), before anything is drawn, explored or scored.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.exploration.record import DETECTOR
from agent.vlm.options import open_backend
from agent.vlm.wrappers.dry_run import DryRun
from common.progress import Stage
from common.storage.files import PathLike, write_text
from common.storage.versions import versions
from eval.critics.exploration import detector_name, load_other_detector
from eval.pipelines.align_claim import check_folder, claim_folder
from eval.pipelines.align_critics import agent_of, detector_of_search, open_scorer
from eval.pipelines.align_settings import AlignSettings
from eval.pipelines.replayed_scenes import with_replay, with_replay_file
from eval.report.curves import write_alignment_curves
from hmr.body.model import Body, load_body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_samples, set_digest
from hmr.types import Detector, Sample, Scorer
from rl.keypoint_fit import align_to_keypoints, checked_fit
from rl.monitoring.training_log import read_logs
from rl.policy_gradient.align import align_by_policy_gradient, check_policy_gradient, update_folders
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.preferences.tables import row_blocks
from rl.rounds import align_in_rounds, checked_alignment

__all__ = ["check_settings", "count_calls", "load_alignment_body", "run_alignment"]


def check_settings(policy: DiffusionPolicy, settings: AlignSettings, out: Path) -> None:
    """Raises ValueError for an unknown critic and invalid training arguments, FileNotFoundError for a missing file."""
    settings.check_critic()
    if settings.fit is not None:
        checked_fit(policy, settings.fit, settings.images)
    if settings.policy_gradient is not None:
        check_policy_gradient(policy, settings.policy_gradient, settings.images)
    else:
        checked_alignment(policy, with_replay_file(policy, settings, out), settings.rounds, settings.images)


def load_alignment_body(policy: DiffusionPolicy, settings: AlignSettings) -> Body:
    """The body of the settings. Raises ValueError if the policy was trained with another one, and what `load_body`
    raises."""
    body = load_body(settings.body)
    policy.require_body(body)
    return body


def run_alignment(
    policy: DiffusionPolicy,
    settings: AlignSettings,
    out: PathLike,
    stage: Stage,
    workers: int = 1,
    people: Sequence[Sample] | None = None,
) -> DiffusionPolicy:
    """The aligned policy, also saved in `out`. A second run computes only what is missing.

    people: aligned on instead of scenes, with the policy's detector for the critic too.

    Raises ValueError, before anything is drawn, for an unknown critic, invalid training arguments, a policy that was
    trained with another body and a folder of a run with other settings; later if the backend stops answering before all
    groups are scored, which the same call resumes.
    """
    out = Path(out)
    check_settings(policy, settings, out)
    body = load_alignment_body(policy, settings)
    images = settings.images if people is None else None
    check_folder(policy, settings, out, images)
    detector = _critics_detector(policy, settings, people)
    rescore = shuffle_scores if settings.shuffled else None
    with ExitStack() as stack:
        backend = None
        if settings.uses_backend:
            backend = stack.enter_context(
                open_backend(settings.backend_options().keeping_replies_in(out))
            ).backend
        opened: dict[str, Any] = {"out": out, "stage": stage, "stack": stack}
        opened |= {"backend": backend, "detector": detector}
        critic = partial(open_scorer, policy, body, settings, **opened)
        early = critic(scenes=None) if settings.needs_no_scenes else None  # so that its errors come first
        claim_folder(policy, settings, out, images)
        scenes, samples = _samples_to_align(settings, out, stage, workers, people)
        scorer = critic(scenes=scenes) if early is None else early
        start = _start(policy, body, settings, samples, out, stage)
        if settings.policy_gradient is not None:
            gradient, seed = settings.policy_gradient, settings.rounds.seed
            aligned = align_by_policy_gradient(
                start, scorer, samples, out, gradient,
                seed=seed, stage=stage, rescore=rescore, in_flight=_in_flight(scorer),
            )  # fmt: skip
        else:
            alignment = with_replay(start, settings, out, stage, workers)
            rounds = replace(settings.rounds, in_flight=_in_flight(scorer))
            reading = detector_of_search(start, body, scorer, detector) if rounds.search else None
            aligned = align_in_rounds(
                start, scorer, samples, out, alignment, rounds, stage,
                rescore=rescore, detector=reading, body=body,
            )  # fmt: skip
    _write_record(out, settings, detector, scorer, policy, start, aligned, scenes)
    write_alignment_curves(out / "curves.svg", read_logs(out))
    return aligned


def _write_record(
    out: Path,
    settings: AlignSettings,
    detector: Detector | None,
    scorer: Scorer,
    policy: DiffusionPolicy,
    start: DiffusionPolicy,
    aligned: DiffusionPolicy,
    scenes: Path | None,
) -> None:
    """alignment.json: what the policy was made from."""
    record = {
        **settings.to_json(),
        DETECTOR: detector_name(detector),
        "uses_truth": settings.uses_truth or bool(getattr(scorer, "uses_truth", False)),
        "scorer": scorer.name,
        "base_policy": policy.digest(),
        "fitted_policy": None if settings.fit is None else start.digest(),
        "policy": aligned.digest(),
        "scenes": scenes and set_digest(scenes),
        **_counted(_group_folders(out, settings)),
        "versions": versions(),
    }
    write_text(out / "alignment.json", json.dumps(record, indent=1))


def _start(
    policy: DiffusionPolicy,
    body: Body,
    settings: AlignSettings,
    samples: Sequence[Sample],
    out: Path,
    stage: Stage,
) -> DiffusionPolicy:
    """What is aligned to the scores: the policy, or what it is after alignment to keypoints."""
    if settings.fit is None:
        return policy
    return align_to_keypoints(policy, body, samples, out / "fit", settings.fit, settings.rounds.seed, stage)


def count_calls(
    policy: DiffusionPolicy,
    settings: AlignSettings,
    stage: Stage,
    workers: int = 1,
    people: Sequence[Sample] | None = None,
) -> DryRun:
    """Count the calls that a run in an empty folder makes to its backend, exploration included. No backend is called
    and no file is kept.

    The number of rounds does not change the count. Raises ValueError for an unknown critic, one without a backend and a
    policy that was trained with another body, FileNotFoundError for a missing memory or body model.
    """
    settings.check_critic()
    if not settings.uses_backend:
        raise ValueError(f"--dry-run counts the calls to a backend; {settings.critic} makes none")
    body = load_alignment_body(policy, settings)
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opened = stack.enter_context(open_backend(settings.backend_options(dry_run=True)))
        detector = _critics_detector(policy, settings, people)
        scenes, samples = _samples_to_align(settings, out, stage, workers, people)
        scorer = open_scorer(
            policy, body, settings, scenes=scenes, out=out, stage=stage, stack=stack,
            backend=opened.backend, detector=detector,
        )  # fmt: skip
        stage(f"counting the calls for {settings.critiques} groups", settings.critiques)
        size = (settings.policy_gradient or settings.rounds).group_size
        groups = list(itertools.islice(itertools.cycle(samples), settings.critiques))
        build_preferences(policy, scorer, groups, out / "groups", group_size=size, seed=settings.rounds.seed)
        assert opened.dry_run is not None
        return opened.dry_run


def _group_folders(out: Path, settings: AlignSettings) -> list[Path]:
    if settings.policy_gradient is not None:
        return update_folders(out)
    return [out / f"round-{number}" / "groups" for number in range(settings.rounds.count)]


def _counted(folders: Sequence[Path]) -> dict[str, int]:
    """The number of groups in all folders, and of those without any score, which training ignores."""
    groups = unscored = 0
    for folder in folders:
        for block in row_blocks(load_preferences(folder, ["scores"])):
            groups += len(block)
            unscored += sum(set(scores) == {None} for scores in block["scores"].to_pylist())
    return {"groups": groups, "unscored_groups": unscored}


def _critics_detector(
    policy: DiffusionPolicy, settings: AlignSettings, people: Sequence[Sample] | None
) -> Detector | None:
    """None is the embedded one of the policy. The detector that found the people has read them already."""
    return load_other_detector(settings.detector, policy) if people is None else policy.detector


def _samples_to_align(
    settings: AlignSettings, out: Path, stage: Stage, workers: int, people: Sequence[Sample] | None
) -> tuple[Path | None, Sequence[Sample]]:
    """The folder of the drawn scenes and its samples; without a folder the given people."""
    if people is not None:
        return None, people
    scenes = _scenes_to_align(settings, out, stage, workers)
    return scenes, list(read_samples(scenes))


def _scenes_to_align(settings: AlignSettings, out: Path, stage: Stage, workers: int) -> Path:
    split = settings.gap.align
    title = f"drawing {settings.images} scenes of {split}"
    return draw_split(
        split,
        out / "scenes",
        settings.images,
        motion=settings.motion,
        body=settings.body,
        uses_truth=settings.uses_truth,
        workers=workers,
        progress=stage(title, settings.images),
    )


def _in_flight(scorer: Scorer) -> int:
    """Number of groups to score at once: the concurrency of an agent's backend."""
    agent = agent_of(scorer)
    return 1 if agent is None else agent.backend.capabilities.concurrency
