"""What the MCP server keeps between calls: models, the memory that was named last, and the last posed groups."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.default import open_default_agent
from agent.types import Case, GroupCritique, require_scores
from agent.vlm import VLMBackend
from cli.mcp_server.roots import Roots
from cli.photos.people import Person, given_people
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detector

__all__ = ["CaseReference", "CritiqueService", "Models"]

KEPT_CASES = 4


@dataclass(frozen=True)
class Models:
    """What the command line chose; loaded at the first call that needs it."""

    backend: VLMBackend
    detector: str | Detector
    policy: Path | None = None
    device: str = "cpu"
    body: Path | None = None
    memory: Path | None = None  # of calls that name none; None: the seed rules


@dataclass(frozen=True)
class CaseReference:
    """One person's group, as a client names it: files, and the number of the person in the hypotheses file."""

    photo: str
    hypotheses: str
    person: int


class CritiqueService:
    """Answers one call at a time. Closing it, or leaving its `with` block, closes the memory."""

    def __init__(self, roots: Roots, models: Models, settings: CritiqueSettings) -> None:
        self.roots, self.models, self.settings = roots, models, settings
        self._cases: OrderedDict[object, tuple[Person, Case]] = OrderedDict()
        self._memory: Path | None = None
        self._agent: CritiqueAgent | None = None
        self._open = ExitStack()

    def __enter__(self) -> CritiqueService:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def policy(self) -> DiffusionPolicy:
        return load_policy(self.models.policy, self.models.device, self.models.detector)

    @cached_property
    def body(self) -> Body:
        return load_body(self.models.body)

    def agent(self, memory: str = "") -> CritiqueAgent:
        """The agent with the memory in this folder, or with that of the command line. One memory is open at a time."""
        folder = self.roots.find(memory, "memory") if memory else self.models.memory
        if self._agent is None or folder != self._memory:
            self._open.close()
            self._agent = None
            opened = open_default_agent(
                self.policy,
                self.body,
                folder,
                backend=self.models.backend,
                settings=self.settings,
                trace=None,
            )
            self._agent, self._memory = self._open.enter_context(opened), folder
        return self._agent

    def any_agent(self) -> CritiqueAgent:
        """An agent for what no memory has a part in."""
        return self._agent or self.agent()

    def case(self, reference: CaseReference) -> Case:
        return self._posed(reference)[1]

    def critique(self, reference: CaseReference, memory: str) -> GroupCritique:
        """Raises ScoresMissing if no hypothesis got a score."""
        person, case = self._posed(reference)
        critique = self.agent(memory).critique(person.sample, person.hypotheses, case.detection)
        require_scores([critique])
        return critique

    def _posed(self, reference: CaseReference) -> tuple[Person, Case]:
        """Kept, because a client asks for several measurements of one group, and the detector is slow."""
        photo = self.roots.find(reference.photo, "photo")
        hypotheses = self.roots.find(reference.hypotheses, "hypotheses")
        key = (*map(_version, (photo, hypotheses)), reference.person)
        if key not in self._cases:
            self._cases[key] = self._pose(photo, hypotheses, reference.person)
        self._cases.move_to_end(key)
        while len(self._cases) > KEPT_CASES:
            self._cases.popitem(last=False)
        return self._cases[key]

    def _pose(self, photo: Path, hypotheses: Path, number: int) -> tuple[Person, Case]:
        people = given_people(photo, [hypotheses], self.body)
        if not number < len(people):
            raise ValueError(
                f"person must be below {len(people)}, the people in {hypotheses.name}, not {number}"
            )
        person = people[number]
        case = self.any_agent().case(person.sample, person.hypotheses, person.detection)
        return person, case


def _version(path: Path) -> tuple[Path, int, int]:
    """Changes if the file does."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size
