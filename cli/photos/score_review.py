"""A person reviews scores in the terminal (`meshcritic critique --review`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.nodes.review import parse_answer
from agent.types import ReviewAnswer, ReviewRequest
from cli.console import print_message
from cli.photos.people import Person
from hmr.types import Sample

__all__ = ["review_in_terminal"]

REASONS = {
    "revise": "some scores are uncertain and will be asked for again",
    "scores": "please accept or correct these scores",
    "low_agreement": "the label orders disagree",
}
HELP = (
    "Enter accepts. 2=10 5=80 gives hypothesis 2 the score 10 and 5 the score 80. rule: followed by a sentence adds a "
    "rule of critique."
)
RULE = "rule:"


def review_in_terminal(
    people: Sequence[Person], draw: Callable[[int, Person], Path]
) -> Callable[[Sample, ReviewRequest], ReviewAnswer]:
    """A reviewer that prints scores and comments and reads the answer from standard input.

    draw: writes the picture of a person's group and returns its path. The reviewer raises ValueError if standard input
    ends before an answer.
    """
    numbers = {person.sample.id: number for number, person in enumerate(people)}

    def review(sample: Sample, request: ReviewRequest) -> ReviewAnswer:
        number = numbers[sample.id]
        print_message(f"person {number}: {REASONS[request.point]}; picture: {draw(number, people[number])}")
        for index, (score, comment) in enumerate(zip(request.scores, request.comments, strict=True)):
            why = f" [uncertain: {request.uncertain[index]}]" if index in request.uncertain else ""
            print_message(f"  {index:3d}  {score:5.1f}  {comment}{why}")
        print_message(HELP)
        return _ask_until_valid(len(request.scores))

    return review


def _ask_until_valid(count: int) -> ReviewAnswer:
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise ValueError("standard input ended before the review was answered")
        try:
            return parse_reply(line, count)
        except ValueError as error:
            print_message(str(error))


def parse_reply(line: str, count: int) -> ReviewAnswer:
    """The answer in a line about `count` hypotheses. Raises ValueError if a score or a rule is not valid."""
    words = line.split()
    pairs = [word.partition("=") for word in words]
    if words and all(equals and index.isdecimal() for index, equals, _ in pairs):
        return parse_answer({"scores": {index: score for index, _, score in pairs}}, count)
    if words and not line.strip().lower().startswith(RULE):
        raise ValueError(f"{line.strip()[:60]!r} is not understood. {HELP}")
    return parse_answer({"rule": line.strip()[len(RULE) :].strip()}, count)
