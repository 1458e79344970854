"""`meshcritic critique`: scores bodies over a photograph."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import (
    BACKEND,
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
    DetectorOrExplored,
    Device,
    Focal,
    Json,
    KeypointFile,
    MemoryOrSeedRules,
    Out,
    PolicyDir,
    Seed,
    file_to_write,
)
from cli.startup import without_collection

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent
    from agent.types import GroupCritique
    from cli.photos.intrinsics import Intrinsics
    from cli.photos.people import Person
    from hmr.body.model import Body
    from hmr.policy.policy import DiffusionPolicy
    from hmr.types import Detector

__all__ = ["critique"]

REVIEW = "Review by a person"  # a group of options on the help page

Review = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POINT",
        rich_help_panel=REVIEW,
        help="Ask on the terminal before uncertain scores are revised (revise), before any scores are accepted "
        "(scores), or before those on which the label orders disagree are (low_agreement); repeatable.",
    ),
]
Learn = Annotated[
    bool,
    typer.Option(
        rich_help_panel=REVIEW,
        help="Write your corrections to --memory: prototypes, and rules in quarantine.",
    ),
]
Checkpoints = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=file_to_write("--checkpoints"),
        rich_help_panel=BACKEND,
        help="Save every step in this file. After a kill the same command goes on from the last finished step.",
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

Mode = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=BACKEND,
        help="fixed: all evidence is measured first. agentic: the model calls for the evidence it wants "
        "(docs/guides/agentic.md).",
    ),
]
MaxToolCalls = Annotated[
    int,
    typer.Option(min=1, rich_help_panel=BACKEND, help="Calls of the agentic mode, per label order."),
]

ToolServers = Annotated[
    list[str] | None,
    typer.Option(
        "--tool-server",
        metavar="COMMAND",
        rich_help_panel=MODELS,
        help="Command that starts an MCP server whose tools measure too, such as 'python my_tools.py'; repeatable "
        "(docs/guides/mcp.md).",
    ),
]


def critique(
    photo: Annotated[Path, typer.Argument(help="Photograph to critique bodies on.")],
    hypotheses: HypothesesFiles = None,
    out: Out = Path("runs/critique"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses per person.")] = 8,
    tool_server: ToolServers = None,
    mode: Mode = "fixed",
    max_tool_calls: MaxToolCalls = 8,
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
    checkpoints: Checkpoints = None,
    review: Review = None,
    learn: Learn = False,
    memory: MemoryOrSeedRules = None,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score the hypotheses of each person in a photograph from 0 (worst) to 100 (best), with a comment per hypothesis.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    with without_collection():
        from agent.checkpoints import open_checkpoints
        from agent.context import CritiqueSettings
        from agent.default import open_default_agent
        from agent.tools import load_tools
        from agent.tools.served.client import open_tool_servers
        from agent.types import require_scores
        from agent.vlm.options import open_backend
        from cli.photos.detectors import choose_detector
        from hmr.body.model import load_body
        from hmr.policy.checkpoint import load_policy

    intrinsics = _intrinsics(hypotheses, focal, center, camera)
    limits = (dry_run, max_calls, record, reply_cache)
    critique_settings, options = critique_and_backend(backend, settings, *limits)
    points = _review_points(review, learn, memory, dry_run)
    chosen_settings = CritiqueSettings(
        mode=mode, max_tool_calls=max_tool_calls, interrupt_on=points, **critique_settings
    )
    with (
        open_backend(options) as opened,
        open_checkpoints(checkpoints) as saver,
        open_tool_servers(tool_server or []) as served,
    ):
        chosen = choose_detector(detector, keypoints, [photo], _explored_detector(memory))
        model, body_model = load_policy(policy, device, chosen), load_body(body)
        people = _given_people(photo, hypotheses, body_model)
        if people is None:
            people = _sampled_people(photo, model, box, accept_any_box, samples, seed, intrinsics)
        _warn_of_other_detector(memory, model.detector)
        with open_default_agent(
            model, body_model, memory, backend=opened.backend,
            tools=[*load_tools(), *served], settings=chosen_settings,
            trace=None if dry_run else out / "trace.jsonl", learns=learn,
        ) as plain:  # fmt: skip
            agent = dataclasses.replace(plain, checkpointer=saver)
            is_estimated = not hypotheses and intrinsics.focal_px is None
            writer = _Writer(out / photo.stem, body_model, is_estimated, model.detector.name)
            critiques = _critiques(agent, people, writer)
            if opened.dry_run:
                deque(critiques, maxlen=0)
                print_estimate(opened.dry_run, as_json)
                return
            finished = _write(people, critiques, writer, as_json)
            if learn:
                _learn(agent, people, finished)
            require_scores(finished)


def _review_points(
    points: Sequence[str] | None, learn: bool, memory: Path | None, dry_run: bool
) -> tuple[str, ...]:
    """Raises ValueError for options that do not go together."""
    if learn and not (points and memory):
        raise ValueError("--learn writes the corrections of --review to a --memory; give both")
    if points and dry_run:
        raise ValueError("--dry-run asks nobody; leave out --review")
    return tuple(points or ())


def _critiques(agent: CritiqueAgent, people: Sequence[Person], writer: _Writer) -> Iterator[GroupCritique]:
    """The critiques of the people as they are finished, with a line of progress, or a person's review, on the
    terminal."""
    from agent.agent import critique_many
    from cli.live_critiques import live_critiques
    from cli.photos.score_review import review_in_terminal

    groups = [(one.sample, one.hypotheses, one.detection) for one in people]
    reviewer = review_in_terminal(people, writer.draw) if agent.settings.interrupt_on else None
    with live_critiques([one.sample for one in people], visible=reviewer is None) as listener:
        yield from critique_many(agent, groups, on_event=listener, reviewer=reviewer)


def _write(
    people: Sequence[Person], critiques: Iterable[GroupCritique], writer: _Writer, as_json: bool
) -> list[GroupCritique]:
    """Write each person when they are finished; returns the critiques."""
    finished = [writer.add(*pair, show=not as_json) for pair in zip(people, critiques, strict=True)]
    if as_json:
        print_json({"people": writer.answers})
    return finished


def _learn(agent: CritiqueAgent, people: Sequence[Person], critiques: Sequence[GroupCritique]) -> None:
    from agent.corrections import learn_corrections

    added = [
        learn_corrections(agent, *pair) for pair in zip((p.sample for p in people), critiques, strict=True)
    ]
    print_message(
        f"{sum(map(len, added))} prototypes and rules written to the memory; rules are in quarantine"
    )


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

    def add(self, person: Person, critique: GroupCritique, show: bool) -> GroupCritique:
        """Returns the critique. show: print it."""
        from cli.photos.answers import critique_answer
        from cli.photos.intrinsics import describe_camera
        from cli.photos.person_files import PICTURE_CAPTIONS, save_person
        from eval.report.trace_pictures import record_pictures

        stem = self._stem(len(self.answers))
        paths = save_person(stem, person, self.body, self.renderer, critique)
        captions = dict(zip((path.name for path in paths), PICTURE_CAPTIONS, strict=False))
        record_pictures(stem.parent, critique.trace_id, captions)
        self.answers.append(
            {
                "bbox": person.bbox,
                "camera": describe_camera(person.hypotheses_in_file.camera, self.focal_is_estimated),
                **critique_answer(critique, self.detector),
                "corrections": [vars(correction) for correction in critique.corrections],
                "files": [str(path) for path in paths],
            }
        )
        if show:
            _print_answer(len(self.answers) - 1, self.answers[-1])
        return critique

    def draw(self, number: int, person: Person) -> Path:
        """Write the picture of a group that has no scores yet; returns its path."""
        from cli.photos.person_files import save_person

        return save_person(self._stem(number), person, self.body, self.renderer, formats=())[1]

    def _stem(self, number: int) -> Path:
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        return self.stem.with_name(f"{self.stem.name}-{number}")


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
