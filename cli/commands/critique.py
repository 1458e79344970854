"""`meshcritic critique`: scores bodies over a photograph."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    MAX_GROUP,
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
    Skeleton,
    file_to_write,
)
from cli.startup import without_collection
from common.storage.locks import single_run

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent
    from agent.types import GroupCritique
    from cli.photos.critique_output import CritiqueWriter
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
        help="Save every step in this file, and every answer in FILE.replies, or in --reply-cache. After a kill the "
        "same command goes on and asks only what was not answered.",
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
    samples: Annotated[int, typer.Option(min=2, max=MAX_GROUP, help="Hypotheses per person.")] = 8,
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
    skeleton: Skeleton = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score the hypotheses of each person in a photograph from 0 (worst) to 100 (best), with a comment per hypothesis.

    The bodies of several people are also scored together, in the frame of one camera.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    with without_collection():
        from agent.checkpoints import open_checkpoints
        from agent.context import CritiqueSettings
        from agent.default import open_default_agent
        from agent.tools import load_tools
        from agent.tools.served.client import open_tool_servers
        from agent.vlm.options import open_backend
        from cli.photos.critique_output import CritiqueWriter, watched_critiques
        from cli.photos.detectors import choose_detector
        from cli.photos.people import describe_other_body, with_detections
        from hmr.body.model import load_body
        from hmr.policy.checkpoint import load_policy

    intrinsics = _intrinsics(hypotheses, focal, center, camera)
    if checkpoints and not reply_cache:  # a step that is interrupted starts again, and asks only what is left
        reply_cache = checkpoints.with_name(f"{checkpoints.name}.replies")
    limits = (dry_run, max_calls, record, reply_cache)
    critique_settings, options = critique_and_backend(backend, settings, *limits)
    points = _review_points(review, learn, memory, dry_run)
    chosen_settings = CritiqueSettings(
        mode=mode, max_tool_calls=max_tool_calls, interrupt_on=points, **critique_settings
    )
    with (
        open_backend(options) as opened,
        single_run(*([] if dry_run else [out])),
        open_checkpoints(checkpoints) as saver,
        open_tool_servers(tool_server or []) as served,
    ):
        chosen = choose_detector(detector, keypoints, [photo], memory)
        model, body_model = load_policy(policy, device, chosen), load_body(body)
        people = _given_people(photo, hypotheses, box, body_model)
        if people is None:
            people = _sampled_people(photo, model, box, accept_any_box, samples, seed, intrinsics)
        if skeleton:
            people = with_detections(people, model.detector)
        _warn_of_other_detector(memory, model.detector)
        if not hypotheses and (other := describe_other_body(model, body_model)):
            print_message(other)
        with open_default_agent(
            model, body_model, memory, backend=opened.backend,
            tools=[*load_tools(), *served], settings=chosen_settings,
            trace=None if dry_run else out / "trace.jsonl", learns=learn,
        ) as plain:  # fmt: skip
            agent = dataclasses.replace(plain, checkpointer=saver)
            is_estimated = not hypotheses and intrinsics.focal_px is None
            writer = CritiqueWriter(photo, out, body_model, is_estimated, model.detector.name, skeleton)
            critiques = watched_critiques(agent, people, writer)
            if opened.dry_run:
                deque(critiques, maxlen=0)
                print_estimate(opened.dry_run, as_json)
                return
            _finish(agent, people, critiques, writer, memory if learn else None, as_json)


def _finish(
    agent: CritiqueAgent,
    people: Sequence[Person],
    critiques: Iterator[GroupCritique],
    writer: CritiqueWriter,
    learns: Path | None,
    as_json: bool,
) -> None:
    """Write each person when their critique is finished, then what concerns all of them.

    learns: the memory that corrections are written to.
    """
    from agent.types import require_scores
    from cli.photos.critique_output import arrangement_answer, learn_from_reviews, print_unscored

    finished = [writer.add(*pair, show=not as_json) for pair in zip(people, critiques, strict=True)]
    arrangement = arrangement_answer(agent, people, finished, show=not as_json)
    if as_json:
        print_json({"people": writer.answers, "arrangement": arrangement})
    if learns is not None:
        learn_from_reviews(agent, people, finished, learns)
    require_scores(finished)
    if not as_json:
        print_unscored(finished)
    writer.remove_others()


def _review_points(
    points: Sequence[str] | None, learn: bool, memory: Path | None, dry_run: bool
) -> tuple[str, ...]:
    """Raises ValueError for options that do not go together."""
    if learn and not (points and memory):
        raise ValueError("--learn writes the corrections of --review to a --memory; give both")
    if points and dry_run:
        raise ValueError("--dry-run asks nobody; leave out --review")
    return tuple(points or ())


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


def _warn_of_other_detector(memory: Path | None, detector: Detector) -> None:
    from agent.exploration.record import explored_detector

    if memory and (explored := explored_detector(memory)) not in (None, detector.name):
        print_message(
            f"{memory} was explored with the detector {explored}; its rule weights are fitted to that detector; for "
            "photographs leave out --memory (the seed rules are used), or explore with --detector NAME"
        )


def _given_people(
    photo: Path, hypotheses: Sequence[Path] | None, boxes: list[str] | None, body: Body
) -> list[Person] | None:
    """The people of the files; None without a file."""
    from cli.photos.people import describe_large_angles, given_people

    if hypotheses and boxes:
        raise ValueError("--hypotheses has the boxes of its people; --box is not allowed with it")
    if not hypotheses:
        return None
    people = given_people(photo, hypotheses, body)
    if large := describe_large_angles(people):
        print_message(large)
    if (size := max(len(person.hypotheses) for person in people)) > MAX_GROUP:
        raise ValueError(
            f"--hypotheses has {size} hypotheses of a person; at most {MAX_GROUP} are critiqued at once, which takes "
            "about 2 GB of memory"
        )
    return people


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
    return sample_people(found, policy, samples, seed)
