"""`meshcritic predict`: bodies for the people in photographs, folders of them, and videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.console import say, stages
from cli.options import Anyway, BodyFile, Boxes, DetectorSpec, Device, Json, Out, PolicyDir, Seed

if TYPE_CHECKING:
    from cli.photos.predict import Outcome

__all__ = ["predict"]


def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, folders of photographs, videos.")],
    out: Out = Path("runs/predict"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses a person.")] = 8,
    box: Boxes = None,
    anyway: Anyway = False,
    detector: DetectorSpec = "embedded",
    guide: Annotated[
        bool, typer.Option("--guide", help="Pull hypotheses towards the keypoints that the detector sees.")
    ] = False,
    save: Annotated[str, typer.Option(help="Any of npz,obj,glb,bvh, beside the pictures.")] = "npz,glb",
    every: Annotated[int, typer.Option(min=1, help="Look at every n-th frame of a video.")] = 1,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Hypotheses for the people in photographs, folders and videos: overlays, npz, OBJ, GLB, BVH.

    A second run with the same --out goes on where the first stopped.

    Example: `meshcritic predict photo.jpg --box 214,18,330,345 --samples 8 --save npz,glb,bvh`
    """
    from cli.photos.people import parse_box
    from cli.photos.person_files import parse_formats
    from cli.photos.predict import Models, Predictor, PredictSettings
    from cli.photos.sources import list_sources
    from common.jsonl import Manifest
    from hmr.body.model import load_body
    from hmr.detection.embedded import load_detector
    from hmr.policy.checkpoint import load_policy
    from hmr.render import load_renderer

    boxes = tuple(parse_box(text) for text in box or ())
    settings = PredictSettings(samples, seed, boxes, anyway, parse_formats(save), guide, every)
    sources, model = list_sources(photos, out), load_policy(policy, device)
    models = Models(model, load_body(body), load_renderer(), load_detector(detector, model))
    out.mkdir(parents=True, exist_ok=True)
    account = _Account(alone=len(sources) == 1, keep=as_json)
    with Manifest(out / "manifest.jsonl") as manifest, stages() as stage:
        for outcome in Predictor(models, settings, out, manifest).run(sources, stage):
            account.enter(outcome)
    account.close()
    if as_json:
        print(json.dumps(account.answer))


class _Account:
    """Says what became of each picture, and keeps the answer for --json where that is asked for."""

    def __init__(self, alone: bool, keep: bool) -> None:
        self.alone, self.keep = alone, keep
        self.answer: dict[str, list[dict[str, Any]]] = {"people": [], "motions": [], "failed": []}
        self.pictures = self.people = self.failures = 0
        self.first_reason = ""
        self.looks = self.seen = self.earlier = 0  # frames of the video at hand, with people, done before

    def enter(self, outcome: Outcome) -> None:
        people = outcome.record["people"] if outcome.record else []
        reasons = [*(outcome.record or {"said": []})["said"], *filter(None, [outcome.reason])]
        self.pictures += not outcome.ends_video
        self.people += len(people)
        self.failures += outcome.record is None
        self.first_reason = self.first_reason or next(iter(reasons), "")
        if self.keep:
            self._keep(outcome)
        if outcome.frame is not None:
            self.looks, self.seen = self.looks + 1, self.seen + bool(people)
            self.earlier += outcome.earlier
        elif outcome.ends_video and outcome.record:
            self._say_video(outcome)
        else:
            self._say_photo(outcome, reasons)

    def close(self) -> None:
        """Raises ValueError where there is nobody to show, or the one thing named could not be read."""
        if self.alone and (self.failures or not self.people):
            raise ValueError(self.first_reason)
        if not self.people:
            raise ValueError(f"none of the {self.pictures} pictures gave a person")

    def _say_photo(self, outcome: Outcome, reasons: list[str]) -> None:
        people = outcome.record["people"] if outcome.record else []
        if people or not self.alone:  # what a picture named alone suffers is the command's last sentence
            for reason in reasons:
                say(reason)
        if outcome.earlier:
            say(f"{outcome.title}: finished by an earlier run")
            return
        for person in people:
            say(f"{outcome.title}: {', '.join(person['files'])}")

    def _say_video(self, outcome: Outcome) -> None:
        say(
            f"{outcome.title}: {self.looks} frames looked at ({self.earlier} by an earlier run), people in {self.seen}"
        )
        for motion in outcome.record["motions"] if outcome.record else []:
            say(f"{outcome.title}: {', '.join(motion['files'])} from frame {motion['first_frame']}")
        self.looks = self.seen = self.earlier = 0

    def _keep(self, outcome: Outcome) -> None:
        picture: dict[str, Any] = {"photo": str(outcome.source.path)}
        if outcome.frame is not None:
            picture["frame"] = outcome.frame
        if outcome.record is None:
            self.answer["failed"].append({**picture, "reason": outcome.reason})
            return
        for person in outcome.record["people"]:
            self.answer["people"].append({**picture, "bbox": person["bbox"], "files": person["files"]})
        for motion in outcome.record.get("motions", ()):
            self.answer["motions"].append({**picture, **motion})
