"""What `meshcritic critique` shows and writes while the people of a photograph are critiqued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent, critique_many
from agent.arrangement.critique import PersonGroup, critique_arrangements
from agent.corrections import learn_corrections
from agent.types import GroupCritique, why_unscored
from cli.console import print_message
from cli.live_critiques import live_critiques
from cli.photos.answers import critique_answer
from cli.photos.intrinsics import camera_line, describe_camera
from cli.photos.people import Person
from cli.photos.person_files import PICTURE_CAPTIONS, remove_person, save_person
from cli.photos.run_files import critiqued_people, write_critique
from cli.photos.score_review import review_in_terminal
from eval.report.trace.pictures import record_pictures
from hmr.body.model import Body
from hmr.render import load_renderer

__all__ = [
    "CritiqueWriter",
    "arrangement_answer",
    "learn_from_reviews",
    "print_unscored",
    "watched_critiques",
]


class CritiqueWriter:
    """Writes the files of each person as soon as the critique is finished, and collects the answer of --json.

    out: the folder of the files. detector: its name, for sentences. skeleton: draw what it reported over the bodies.
    """

    def __init__(
        self,
        photo: Path,
        out: Path,
        body: Body,
        focal_is_estimated: bool,
        detector: str,
        skeleton: bool = False,
    ) -> None:
        self.photo, self.stem = photo, out / photo.stem
        self.body, self.detector, self.renderer = body, detector, load_renderer()
        self.focal_is_estimated, self.skeleton = focal_is_estimated, skeleton
        self.answers: list[dict[str, Any]] = []

    def add(self, person: Person, critique: GroupCritique, show: bool) -> GroupCritique:
        """Returns the critique. show: print it."""
        stem = self._stem(len(self.answers))
        paths = save_person(stem, person, self.body, self.renderer, critique, with_skeleton=self.skeleton)
        captions = dict(zip((path.name for path in paths), PICTURE_CAPTIONS, strict=False))
        record_pictures(stem.parent, critique.trace_id, captions)
        self.answers.append(
            {
                "bbox": person.bbox,
                "camera": describe_camera(person.hypotheses_in_file.camera, self.focal_is_estimated),
                **critique_answer(critique, self.detector),
                "files": [str(path) for path in paths],
            }
        )
        write_critique(next(path for path in paths if path.suffix == ".npz"), self.photo, self.answers[-1])
        if show:
            _print_answer(len(self.answers) - 1, self.answers[-1])
        return critique

    def draw(self, number: int, person: Person) -> Path:
        """Write the picture of a group that has no scores yet; returns its path."""
        stem, skeleton = self._stem(number), self.skeleton
        return save_person(stem, person, self.body, self.renderer, formats=(), with_skeleton=skeleton)[1]

    def remove_others(self) -> None:
        """Delete the files of people whom an earlier critique of the photograph found and this one did not. Call it
        when all people are written."""
        for number, critique in critiqued_people(self.stem, self.photo).items():
            if number >= len(self.answers):
                remove_person(self._stem(number))
                critique.unlink()  # last: with it the next run finds what a killed one has left

    def _stem(self, number: int) -> Path:
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        return self.stem.with_name(f"{self.stem.name}-{number}")


def watched_critiques(
    agent: CritiqueAgent, people: Sequence[Person], writer: CritiqueWriter
) -> Iterator[GroupCritique]:
    """The critiques of the people as they are finished, with a line of progress, or a person's review, on the
    terminal."""
    reviewer = review_in_terminal(people, writer.draw) if agent.settings.interrupt_on else None
    with live_critiques([one.sample for one in people], visible=reviewer is None) as listener:
        yield from critique_many(agent, _groups(people), on_event=listener, reviewer=reviewer)


def arrangement_answer(
    agent: CritiqueAgent, people: Sequence[Person], critiques: Sequence[GroupCritique], show: bool
) -> dict[str, Any] | None:
    """The best arrangement of the people and its alternatives; None if fewer than two people have a score."""
    found = critique_arrangements(agent, _groups(people), critiques)
    if not found:
        return None
    best, *others = (one.to_json() for one in found)
    if show:
        chosen = zip(best["people"], best["hypotheses"], strict=True)
        named = ", ".join(f"{hypothesis} of person {person}" for person, hypothesis in chosen)
        print_message(f"arrangement of hypotheses {named}: {best['score']:.1f}  {best['comment']}")
    fields = ("hypotheses", "score", "mean_score")
    return {**best, "alternatives": [{name: other[name] for name in fields} for other in others]}


def learn_from_reviews(
    agent: CritiqueAgent, people: Sequence[Person], critiques: Sequence[GroupCritique], memory: Path
) -> None:
    """Write the corrections to the agent's memory, which is that of the folder `memory`, and print what was written."""
    pairs = zip((person.sample for person in people), critiques, strict=True)
    added = {name for pair in pairs for name in learn_corrections(agent, *pair)}
    rules = sum(rule.rule_id in added for rule in agent.rules.all())
    prototypes = len(added) - rules
    print_message(
        f"{prototypes} prototype{'s' * (prototypes != 1)} and {rules} rule{'s' * (rules != 1)} written to {memory}"
        f"{'; new rules are in quarantine' if rules else ''}"
    )


def _groups(people: Sequence[Person]) -> list[PersonGroup]:
    return [(one.sample, one.hypotheses, one.detection) for one in people]


def _print_answer(number: int, answer: dict[str, Any]) -> None:
    print_message(f"person {number} at {answer['bbox']}: {', '.join(answer['files'][:2])}")
    print_message(f"  {camera_line(answer['camera'])}")
    is_scored = any(score is not None for score in answer["scores"])
    if is_scored:
        _print_scores(answer)
    for sentence in answer["verdict"]:
        print_message(f"  {sentence}")
    if answer["degeneracy"]:
        print_message(f"  {answer['degeneracy']}")
    if is_scored and answer["lost"]:  # otherwise the end of the run says why
        print_message(f"  {answer['lost']}")


def _print_scores(answer: dict[str, Any]) -> None:
    """A reason that a score before is missing for is not repeated."""
    reasons, said = iter(answer["reasons"]), set[str]()
    for index, (score, comment) in enumerate(zip(answer["scores"], answer["comments"], strict=True)):
        if score is None:
            reason = next(reasons)
            print_message(f"  {index:3d}      -  {'' if reason in said else reason}".rstrip())
            said.add(reason)
        else:
            print_message(f"  {index:3d}  {score:5.1f}  {comment}{_expected(answer['errors'], index)}")


def print_unscored(critiques: Sequence[GroupCritique]) -> None:
    """Who got no score, and why. For a run in which others got some: one without any ends with the reason."""
    for number, critique in enumerate(critiques):
        if all(score is None for score in critique.scores):
            print_message(f"person {number}: {why_unscored([critique])}")


def _expected(errors: dict[str, Any] | None, index: int) -> str:
    if errors is None:
        return ""
    expected, low, high = (errors[name][index] for name in ("expected_mm", "low_mm", "high_mm"))
    return f" [expected error {expected:.0f} mm, {low:.0f} to {high:.0f}]"
