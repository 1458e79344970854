"""`meshcritic critique`: what is wrong with bodies over a photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eval.commands.console import say
from eval.commands.options import Anyway, BodyFile, Boxes, Json, Out, PolicyDir, Seed

if TYPE_CHECKING:
    from eval.photos import Person
    from hmr.policy import DiffusionPolicy

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
    backend: Annotated[
        str, typer.Option(help="Who judges: embedded, or an installed backend's NAME:ARGUMENT.")
    ] = "embedded",
    memory: Annotated[
        Path | None,
        typer.Option(help="An explored memory, such as runs/demo/memory; default: the seed rules."),
    ] = None,
    policy: PolicyDir = None,
    body: BodyFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Scores from 0 to 100 and a comment for each hypothesis of a group.

    Example: `meshcritic critique photo.jpg --box 214,18,330,345 --samples 8 --memory runs/demo/memory`
    """
    import tempfile

    from agent.default import default_agent, open_default_memory
    from agent.tracing import Trace
    from eval.person_files import save_person
    from eval.photos import given_people
    from hmr.body import load_body
    from hmr.checkpoint import load_policy

    model, skin = load_policy(policy), load_body(body)
    if hypotheses is not None:
        people = given_people(photo, hypotheses, skin)
    else:
        people = _posed_people(photo, model, box or [], anyway, samples, seed)
    out.mkdir(parents=True, exist_ok=True)
    answers = []
    with (
        tempfile.TemporaryDirectory() as fresh,
        Trace(out / "trace.jsonl") as trace,
        open_default_memory(memory or Path(fresh), model, frozen=memory is not None) as opened,
    ):
        agent = default_agent(model, skin, opened, backend=backend, trace=trace)
        for number, person in enumerate(people):
            verdict = agent.critique(person.sample, person.hypotheses)
            paths = save_person(out / f"{photo.stem}-{number}", person, skin, agent.renderer, verdict)
            answers.append(
                {
                    "bbox": _corners(person.box_in_file),
                    "scores": list(verdict.scores),
                    "comments": list(verdict.comments),
                    "reasons": list(verdict.reasons),
                    "files": [str(path) for path in paths],
                }
            )
    if as_json:
        print(json.dumps({"people": answers}))
        return
    _say_scores(answers)


def _posed_people(
    photo: Path, model: DiffusionPolicy, boxes: list[str], anyway: bool, samples: int, seed: int
) -> list[Person]:
    """The people of a photograph with the policy's hypotheses; what was refused is said on stderr."""
    from eval.photos import find_people, parse_box, sample_people
    from hmr.data.photo import load_photo
    from hmr.detect import EmbeddedDetector

    opened = load_photo(photo)
    asked = [parse_box(text) for text in boxes]
    found, refusals = find_people(opened, str(photo), model, EmbeddedDetector(model), asked, anyway)
    for sentence in refusals:
        say(sentence)
    return sample_people(found, opened, model, samples, seed)


def _say_scores(answers: list[dict[str, Any]]) -> None:
    for number, answer in enumerate(answers):
        say(f"person {number} at {answer['bbox']}: {', '.join(answer['files'][:2])}")
        for index, (score, comment) in enumerate(zip(answer["scores"], answer["comments"], strict=True)):
            say(f"  {index:3d}  {'  -' if score is None else f'{score:5.1f}'}  {comment}")


def _corners(box: Any) -> list[float]:
    return [round(value, 1) for value in (box.x0, box.y0, box.x1, box.y1)]
