"""`meshcritic critique`: what is wrong with bodies over a photograph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.agent import judging_agent
from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    split_settings,
)
from cli.console import say, say_estimate
from cli.options import Anyway, BodyFile, Boxes, DetectorSpec, Device, Json, Out, PolicyDir, Seed

if TYPE_CHECKING:
    from agent.types import GroupCritique
    from cli.photos.people import Person
    from hmr.body.model import Body
    from hmr.policy.policy import DiffusionPolicy
    from hmr.types import Detector

__all__ = ["critique"]


def critique(
    photo: Annotated[Path, typer.Argument(help="A photograph.")],
    hypotheses: Annotated[
        Path | None, typer.Option(help="Judge these (docs/hypotheses-npz.md) instead of the policy's own.")
    ] = None,
    out: Out = Path("runs/critique"),
    samples: Annotated[int, typer.Option(min=2, help="Hypotheses a person.")] = 8,
    box: Boxes = None,
    anyway: Anyway = False,
    detector: DetectorSpec = "embedded",
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="An explored memory, such as runs/demo/memory; default: the seed rules."),
    ] = None,
    policy: PolicyDir = None,
    device: Device = "cpu",
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Scores from 0 to 100 and a comment for each hypothesis of a group.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    from agent.concurrent import critique_many
    from agent.context import CritiqueSettings
    from agent.vlm.options import BackendOptions, opened_backend
    from cli.photos.people import given_people
    from hmr.body.model import load_body
    from hmr.detection.embedded import load_detector
    from hmr.policy.checkpoint import load_policy

    of_critique, of_backend = split_settings(settings or ())
    asked = BackendOptions(backend, of_backend, dry_run, max_calls, record, reply_cache)
    with opened_backend(asked) as opened:
        model, skin = load_policy(policy, device), load_body(body)
        eyes = load_detector(detector, model, skin)
        if hypotheses is not None:
            people = given_people(photo, hypotheses, skin)
        else:
            people = _posed_people(photo, model, eyes, box or [], anyway, samples, seed)
        _name_other_eyes(memory, eyes)
        trace = None if dry_run else out / "trace.jsonl"
        how = CritiqueSettings(**of_critique)
        with judging_agent(model, skin, opened.backend, memory, trace, detector=eyes, settings=how) as agent:
            verdicts = list(critique_many(agent, [(person.sample, person.hypotheses) for person in people]))
        if opened.dry_run:
            say_estimate(opened.dry_run, as_json)
            return
    answers = _answers(people, verdicts, out / photo.stem, skin)
    if as_json:
        print(json.dumps({"people": answers}))
    else:
        _say_scores(answers)


def _name_other_eyes(memory: Path | None, eyes: Detector) -> None:
    from eval.critics.exploration import eyes_of

    if memory and (explored := eyes_of(memory)) not in (None, eyes.name):
        say(f"{memory} was explored with the detector {explored}: its rules are weighed for those eyes")


def _posed_people(
    photo: Path,
    model: DiffusionPolicy,
    detector: Detector,
    boxes: list[str],
    anyway: bool,
    samples: int,
    seed: int,
) -> list[Person]:
    """The people of a photograph with the policy's hypotheses; what was refused is said on stderr."""
    from cli.photos.people import find_people, parse_box, sample_people
    from hmr.images.photographs import load_photo

    opened = load_photo(photo)
    asked = [parse_box(text) for text in boxes]
    found, refusals = find_people(opened, str(photo), model, detector, asked, anyway)
    for sentence in refusals:
        say(sentence)
    return sample_people(found, opened, model, samples, seed)


def _answers(
    people: Sequence[Person], verdicts: Sequence[GroupCritique], stem: Path, body: Body
) -> list[dict[str, Any]]:
    """What is printed of each person, once the files are written."""
    from cli.photos.person_files import save_person
    from hmr.render import load_renderer

    renderer = load_renderer()
    stem.parent.mkdir(parents=True, exist_ok=True)
    answers = []
    for number, (person, verdict) in enumerate(zip(people, verdicts, strict=True)):
        paths = save_person(stem.with_name(f"{stem.name}-{number}"), person, body, renderer, verdict)
        answers.append(
            {
                "bbox": _corners(person.box_in_file),
                "scores": list(verdict.scores),
                "comments": list(verdict.comments),
                "reasons": list(verdict.reasons),
                "files": [str(path) for path in paths],
            }
        )
    return answers


def _say_scores(answers: list[dict[str, Any]]) -> None:
    for number, answer in enumerate(answers):
        say(f"person {number} at {answer['bbox']}: {', '.join(answer['files'][:2])}")
        for index, (score, comment) in enumerate(zip(answer["scores"], answer["comments"], strict=True)):
            say(f"  {index:3d}  {'  -' if score is None else f'{score:5.1f}'}  {comment}")


def _corners(box: Any) -> list[float]:
    return [round(value, 1) for value in (box.x0, box.y0, box.x1, box.y1)]
