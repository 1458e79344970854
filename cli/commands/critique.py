"""`meshcritic critique`: scores bodies over a photograph."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    critique_and_backend,
)
from cli.console import print_estimate, print_json, print_message
from cli.options import (
    MODELS,
    AcceptAnyBox,
    BodyFile,
    Boxes,
    CameraFile,
    Center,
    Device,
    Focal,
    Json,
    KeypointFile,
    MemoryOrSeedRules,
    Out,
    PolicyDir,
    Seed,
)
from cli.startup import without_collection

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent
    from agent.arrangement.critique import PersonGroup
    from agent.types import GroupCritique
    from cli.photos.intrinsics import Intrinsics
    from cli.photos.people import Person
    from hmr.body.model import Body
    from hmr.policy.policy import DiffusionPolicy
    from hmr.types import Detector

__all__ = ["critique"]

DetectorOrExplored = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        rich_help_panel=MODELS,
        help="Detector of people and keypoints, as of predict. Default: the one with which --memory was explored, or "
        "blazepose.",
    ),
]
HypothesesFiles = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Hypotheses to score, .npz (docs/reference/hypotheses-file.md), or outputs of HMR2 or CLIFF; repeatable: "
        "the bodies of all files are compared. Default: samples of the policy.",
    ),
]


def critique(
    photo: Annotated[Path, typer.Argument(help="Photograph to critique bodies on.")],
    hypotheses: HypothesesFiles = None,
    out: Out = Path("runs/critique"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses per person.")] = 8,
    box: Boxes = None,
    accept_any_box: AcceptAnyBox = False,
    focal: Focal = None,
    center: Center = None,
    camera: CameraFile = None,
    detector: DetectorOrExplored = None,
    keypoints: KeypointFile = None,
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    memory: MemoryOrSeedRules = None,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score the hypotheses of each person in a photograph from 0 (worst) to 100 (best), with a comment per hypothesis.

    The bodies of several people are also scored together, in the frame of one camera.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    with without_collection():
        from agent.agent import critique_many
        from agent.context import CritiqueSettings
        from agent.default import open_default_agent
        from agent.types import require_scores
        from agent.vlm.options import open_backend
        from cli.photos.detectors import choose_detector
        from hmr.body.model import load_body
        from hmr.policy.checkpoint import load_policy

    intrinsics = _intrinsics(hypotheses, focal, center, camera)
    limits = (dry_run, max_calls, record, reply_cache)
    critique_settings, options = critique_and_backend(backend, settings, *limits)
    with open_backend(options) as opened:
        chosen = choose_detector(detector, keypoints, [photo], _explored_detector(memory))
        model, body_model = load_policy(policy, device, chosen), load_body(body)
        people = _given_people(photo, hypotheses, body_model)
        if people is None:
            people = _sampled_people(photo, model, box, accept_any_box, samples, seed, intrinsics)
        _warn_of_other_detector(memory, model.detector)
        with open_default_agent(
            model, body_model, memory, backend=opened.backend,
            settings=CritiqueSettings(**critique_settings), trace=None if dry_run else out / "trace.jsonl",
        ) as agent:  # fmt: skip
            groups = [(one.sample, one.hypotheses, one.detection) for one in people]
            critiques = critique_many(agent, groups)
            if opened.dry_run:
                deque(critiques, maxlen=0)
                print_estimate(opened.dry_run, as_json)
                return
            is_estimated = not hypotheses and intrinsics.focal_px is None
            writer = _Writer(out / photo.stem, body_model, is_estimated, model.detector.name)
            finished = _write(people, critiques, writer, as_json)
            arrangement = _arrangement(agent, groups, finished, show=not as_json)
            if as_json:
                print_json({"people": writer.answers, "arrangement": arrangement})
            require_scores(finished)


def _write(
    people: Sequence[Person], critiques: Iterable[GroupCritique], writer: _Writer, as_json: bool
) -> list[GroupCritique]:
    """Write each person when they are finished."""
    return [writer.add(*pair, show=not as_json) for pair in zip(people, critiques, strict=True)]


def _arrangement(
    agent: CritiqueAgent, groups: Sequence[PersonGroup], critiques: Sequence[GroupCritique], show: bool
) -> dict[str, Any] | None:
    """The best arrangement of the people and its alternatives; None if fewer than two people have a score."""
    from agent.arrangement.critique import critique_arrangements

    found = critique_arrangements(agent, groups, critiques)
    if not found:
        return None
    best, *others = (one.to_json() for one in found)
    if show:
        chosen = zip(best["people"], best["hypotheses"], strict=True)
        named = ", ".join(f"{hypothesis} of person {person}" for person, hypothesis in chosen)
        print_message(f"arrangement of hypotheses {named}: {best['score']:.1f}  {best['comment']}")
    fields = ("hypotheses", "score", "mean_score")
    return {**best, "alternatives": [{name: other[name] for name in fields} for other in others]}


def _intrinsics(
    hypotheses: Sequence[Path] | None, focal: float | None, center: str | None, camera: Path | None
) -> Intrinsics:
    from cli.photos.intrinsics import NO_INTRINSICS, parse_intrinsics

    intrinsics = parse_intrinsics(focal, center, camera)
    if hypotheses and intrinsics != NO_INTRINSICS:
        raise ValueError(
            "--hypotheses has the camera of its bodies; --focal, --center and --camera are not allowed with it"
        )
    return intrinsics


def _explored_detector(memory: Path | None) -> str | None:
    from eval.critics.exploration import explored_detector

    return explored_detector(memory) if memory else None


def _warn_of_other_detector(memory: Path | None, detector: Detector) -> None:
    if (explored := _explored_detector(memory)) not in (None, detector.name):
        print_message(
            f"{memory} was explored with the detector {explored}; its rule weights are fitted to that detector"
        )


def _given_people(photo: Path, hypotheses: Sequence[Path] | None, body: Body) -> list[Person] | None:
    """The people of the files; None without a file."""
    from cli.photos.people import given_people

    return given_people(photo, hypotheses, body) if hypotheses else None


def _sampled_people(
    photo: Path,
    policy: DiffusionPolicy,
    boxes: list[str] | None,
    accept_any_box: bool,
    samples: int,
    seed: int,
    intrinsics: Intrinsics,
) -> list[Person]:
    """The people of a photograph with hypotheses of the policy. Rejected boxes are reported on stderr."""
    from cli.photos.people import find_people, parse_box, sample_people
    from hmr.images.photographs import load_photo

    opened = load_photo(photo)
    found, rejections = find_people(
        opened,
        str(photo),
        policy.detector,
        [parse_box(text) for text in boxes or ()],
        accept_any_box,
        intrinsics,
    )
    for sentence in rejections:
        print_message(sentence)
    return sample_people(found, opened, policy, samples, seed)


class _Writer:
    """Writes the files of each person as soon as the critique is finished, and collects the answer of --json.

    stem: of the files' names. detector: its name, for sentences.
    """

    def __init__(self, stem: Path, body: Body, focal_is_estimated: bool, detector: str) -> None:
        from hmr.render import load_renderer

        self.stem, self.body, self.detector, self.renderer = stem, body, detector, load_renderer()
        self.focal_is_estimated = focal_is_estimated
        self.answers: list[dict[str, Any]] = []
        stem.parent.mkdir(parents=True, exist_ok=True)

    def add(self, person: Person, critique: GroupCritique, show: bool) -> GroupCritique:
        """Returns the critique. show: print it."""
        from agent.types import lost_questions
        from agent.verdict import verdict_sentences
        from cli.photos.intrinsics import describe_camera
        from cli.photos.person_files import save_person

        stem = self.stem.with_name(f"{self.stem.name}-{len(self.answers)}")
        paths = save_person(stem, person, self.body, self.renderer, critique)
        self.answers.append(
            {
                "bbox": person.bbox,
                "camera": describe_camera(person.hypotheses_in_file.camera, self.focal_is_estimated),
                "scores": list(critique.scores),
                "comments": list(critique.comments),
                "reasons": list(critique.reasons),
                "errors": critique.errors.to_json() if critique.errors else None,
                "detector_confidence": critique.detector_confidence,
                "verdict": verdict_sentences(critique, self.detector),
                "questions": critique.questions.to_json(),
                "lost": lost_questions(critique.questions, critique.failures),
                "files": [str(path) for path in paths],
            }
        )
        if show:
            _print_answer(len(self.answers) - 1, self.answers[-1])
        return critique


def _print_answer(number: int, answer: dict[str, Any]) -> None:
    from cli.photos.intrinsics import camera_line

    print_message(f"person {number} at {answer['bbox']}: {', '.join(answer['files'][:2])}")
    print_message(f"  {camera_line(answer['camera'])}")
    reasons = iter(answer["reasons"])
    for index, (score, comment) in enumerate(zip(answer["scores"], answer["comments"], strict=True)):
        if score is None:
            print_message(f"  {index:3d}      -  {next(reasons)}")
        else:
            print_message(f"  {index:3d}  {score:5.1f}  {comment}{_expected(answer['errors'], index)}")
    for sentence in answer["verdict"]:
        print_message(f"  {sentence}")
    if answer["lost"]:
        print_message(f"  {answer['lost']}")


def _expected(errors: dict[str, Any] | None, index: int) -> str:
    if errors is None:
        return ""
    expected, low, high = (errors[name][index] for name in ("expected_mm", "low_mm", "high_mm"))
    return f" [expected error {expected:.0f} mm, {low:.0f} to {high:.0f}]"
