"""`meshcritic predict`: predicts bodies for the people in photographs and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import print_json, print_message, stages
from cli.options import (
    MAX_SAMPLES,
    AcceptAnyBox,
    BodyFile,
    Boxes,
    CameraFile,
    Center,
    Device,
    Focal,
    Json,
    KeypointFile,
    Out,
    PhotoDetector,
    PolicyDir,
    Seed,
    Skeleton,
)
from cli.startup import without_collection
from common.storage.locks import single_run

if TYPE_CHECKING:
    from cli.prediction.run import Outcome

__all__ = ["Summary", "predict"]

GuideFlag = Annotated[bool, typer.Option("--guide", help="Guide sampling towards the detected keypoints.")]
Formats = Annotated[
    str,
    typer.Option(
        metavar="FORMATS",
        help="Formats to write besides the pictures: npz, obj, glb or bvh, separated by commas.",
    ),
]
SmoothSeconds = Annotated[
    float,
    typer.Option(
        min=0,
        max=10,
        metavar="SECONDS",
        help="Smooth the motions of a video, and its overlay, with a Gaussian of this standard deviation; 0.1 removes "
        "jitter.",
    ),
]


def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, folders of photographs, and videos.")],
    out: Out = Path("runs/predict"),
    samples: Annotated[int, typer.Option(min=2, max=MAX_SAMPLES, help="Hypotheses per person.")] = 8,
    box: Boxes = None,
    accept_any_box: AcceptAnyBox = False,
    focal: Focal = None,
    center: Center = None,
    camera: CameraFile = None,
    detector: PhotoDetector = None,
    keypoints: KeypointFile = None,
    guide: GuideFlag = False,
    save: Formats = "npz,glb",
    every: Annotated[int, typer.Option(min=1, help="Process every n-th frame of a video.")] = 1,
    smooth: SmoothSeconds = 0.0,
    skeleton: Skeleton = False,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Predict 3D bodies for the people in photographs and videos; write overlays, npz, GLB, OBJ and BVH files.

    A video gets one overlay video, and a motion per person.

    The same command continues an interrupted run. Detections of your own come from a file, as in
    `meshcritic predict photo.jpg --keypoints photo_keypoints.json`.

    Example: `meshcritic predict photo.jpg --box 214,18,330,345 --samples 8 --save npz,glb,bvh`
    """
    with without_collection():
        from cli.photos.detectors import choose_detector
        from cli.photos.intrinsics import parse_intrinsics
        from cli.photos.people import describe_other_body, parse_box
        from cli.photos.person_files import parse_formats
        from cli.prediction.predictor import Predictor
        from cli.prediction.run import Models, PredictSettings
        from cli.prediction.sources import list_sources
        from common.storage.jsonl import Manifest
        from hmr.body.model import load_body
        from hmr.policy.checkpoint import load_policy
        from hmr.render import load_renderer

    boxes = tuple(parse_box(text) for text in box or ())
    intrinsics = parse_intrinsics(focal, center, camera)
    settings = PredictSettings(
        samples, seed, boxes, accept_any_box, parse_formats(save), guide, every, intrinsics, skeleton, smooth
    )
    sources = list_sources(photos, out)
    if (every, smooth) != (1, 0.0) and not any(source.is_video for source in sources):
        raise ValueError("--every and --smooth apply to videos, and there is none among the inputs")
    chosen = choose_detector(detector, keypoints, [source.path for source in sources])
    model = load_policy(policy, device, chosen)
    models = Models(model, load_body(body), load_renderer())
    if other := describe_other_body(model, models.body):
        print_message(other)
    summary = Summary(single=len(sources) == 1, collect=as_json)
    with single_run(out), Manifest(out / "manifest.jsonl") as manifest, stages() as stage:
        for outcome in Predictor(models, settings, out, manifest).run(sources, stage):
            summary.add(outcome)
    if as_json and summary.people:
        print_json(summary.answer)
    summary.check()


class Summary:
    """Prints the outcome of each input, and collects the answer of --json if `collect`.

    single: there is one input; why it failed is then the message of the command's error.
    """

    def __init__(self, single: bool, collect: bool) -> None:
        self.single, self.collect = single, collect
        names = ("people", "motions", "videos", "failed", "messages")
        self.answer: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.pictures = self.people = self.failures = 0
        self.first_reason = self.failure = ""
        self.frames = self.frames_with_people = self.earlier_frames = 0  # of the current video
        self.camera: dict[str, Any] = {}  # of the current video: all of its frames have one size

    def add(self, outcome: Outcome) -> None:
        people = outcome.record["people"] if outcome.record else []
        reasons = [*(outcome.record or {"messages": []})["messages"], *filter(None, [outcome.reason])]
        self.pictures += not outcome.ends_video
        self.people += len(people)
        self.failures += outcome.record is None
        self.first_reason = self.first_reason or next(iter(reasons), "")
        if outcome.record is None:
            self.failure = self.failure or outcome.reason or ""
        if self.collect:
            self._collect(outcome)
        if outcome.frame is not None:
            self.camera = outcome.record["camera"] if outcome.record else self.camera
            self.frames, self.frames_with_people = self.frames + 1, self.frames_with_people + bool(people)
            self.earlier_frames += outcome.earlier
        elif outcome.ends_video and outcome.record:
            self._print_video(outcome)
        else:
            self._print_photo(outcome, reasons)

    def check(self) -> None:
        """Prints the total of several inputs. Raises ValueError if no person was found, or if the only input failed."""
        if self.failures and not self.single:
            print_message(
                f"{self.people} people in {self.pictures} pictures; {self.failures} failed, as reported above"
            )
        if self.single and (self.failures or not self.people):
            raise ValueError(self.failure or self.first_reason)
        if not self.people:
            raise ValueError(f"no person was found in any of the {self.pictures} pictures")

    def _print_photo(self, outcome: Outcome, reasons: list[str]) -> None:
        people = outcome.record["people"] if outcome.record else []
        if people or not self.single:
            for reason in reasons:
                print_message(reason)
        if outcome.earlier:
            print_message(f"{outcome.title}: finished by an earlier run")
            return
        if outcome.record and people:
            self._print_camera(outcome, outcome.record["camera"])
        for person in people:
            print_message(f"{outcome.title}: {', '.join(person['files'])}")
        if outcome.record and "overlay" in outcome.record:
            print_message(f"{outcome.title}: everybody: {outcome.record['overlay']}")

    def _print_video(self, outcome: Outcome) -> None:
        print_message(
            f"{outcome.title}: {self.frames} frames processed ({self.earlier_frames} by an earlier run), people in "
            f"{self.frames_with_people}"
        )
        if self.frames_with_people:
            self._print_camera(outcome, self.camera)
        record = outcome.record or {"motions": []}
        for motion in record["motions"]:
            print_message(f"{outcome.title}: {', '.join(motion['files'])} from frame {motion['first_frame']}")
        if "overlay" in record:
            print_message(f"{outcome.title}: everybody: {record['overlay']}")
        self.frames = self.frames_with_people = self.earlier_frames = 0

    def _print_camera(self, outcome: Outcome, camera: dict[str, Any]) -> None:
        from cli.photos.intrinsics import camera_line

        print_message(f"{outcome.title}: {camera_line(camera)}")

    def _collect(self, outcome: Outcome) -> None:
        picture: dict[str, Any] = {"photo": str(outcome.source.path)}
        if outcome.frame is not None:
            picture["frame"] = outcome.frame
        if outcome.record is not None:
            self.answer["messages"] += [
                {**picture, "message": message} for message in outcome.record["messages"]
            ]
        if outcome.record is None:
            self.answer["failed"].append({**picture, "reason": outcome.reason})
            return
        if "time_s" in outcome.record:  # of a video frame
            picture["time_s"] = outcome.record["time_s"]
        for person in outcome.record["people"]:
            known = {name: person[name] for name in ("confidence", "detector") if name in person}
            entry = {"bbox": person["bbox"], "camera": outcome.record["camera"], **known}
            self.answer["people"].append({**picture, **entry, "files": person["files"]})
        for motion in outcome.record.get("motions", ()):
            self.answer["motions"].append({**picture, **motion})
        if outcome.ends_video and "overlay" in outcome.record:
            self.answer["videos"].append({**picture, "overlay": outcome.record["overlay"]})
