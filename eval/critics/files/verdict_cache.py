"""Caches verdicts on disk, so that a killed comparison of critics can be resumed.

    OUT/verdicts/NAME.jsonl    one line per group, written when the group has its scores

The fingerprint of a line covers everything that shapes a verdict: the group, the agent with its settings, tools, rules
and prototypes, the policy behind its detector, and the source code. A verdict with a missing score or a broken tool is
not cached, so the next run asks again. Left out: comments, tags and the tools' sentences, which no table needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agent.agent import CritiqueAgent, critique_many
from agent.types import Evidence, GroupCritique, QuestionCounts, require_scores, unavailable_reason
from common.storage.fingerprint import digest, json_digest
from common.storage.jsonl import Manifest
from hmr.types import Hypotheses, Sample

__all__ = ["CriticVerdict", "Group", "critique_with_cache"]

ROOT = Path(__file__).parents[3]
PACKAGES = ("agent", "memory", "hmr")  # whose files shape a verdict
GROUND_TRUTH = ROOT / "eval/critics/reference_critics/ground_truth_detector.py"
SUFFIXES = (".py", ".json", ".md")  # code, seed rules, prompts


@runtime_checkable
class Group(Protocol):
    """A photograph of a person, and the hypotheses to rank."""

    @property
    def sample(self) -> Sample: ...

    @property
    def hypotheses(self) -> Hypotheses: ...


@dataclass(frozen=True)
class CriticVerdict:
    """The scores of a critique, its evidence without text, and its questions."""

    scores: tuple[float | None, ...]
    evidence: tuple[Evidence, ...]
    questions: QuestionCounts = field(
        default_factory=QuestionCounts, compare=False
    )  # the time differs by run

    @staticmethod
    def of(critique: GroupCritique) -> CriticVerdict:
        evidence = (replace(item, parts=(), sentences=()) for item in critique.evidence)
        return CriticVerdict(critique.scores, tuple(evidence), critique.questions)

    @staticmethod
    def from_json(record: dict[str, Any]) -> CriticVerdict:
        evidence = tuple(map(Evidence.from_json, record["evidence"]))
        return CriticVerdict(tuple(record["scores"]), evidence, QuestionCounts.from_json(record["questions"]))


def critique_with_cache(
    path: Path,
    agent: CritiqueAgent,
    policy_digest: str,
    groups: Sequence[Group],
    progress: Callable[[int], None] = lambda done: None,
    needs_scores: bool = True,
) -> list[CriticVerdict]:
    """The agent's verdicts in the order of the groups, from the file at `path` where it has them.

    policy_digest: of the policy that the agent's detector and image embedder use. Raises what `critique_many` raises,
    and with `needs_scores` ScoresMissing if no group has a score; verdicts reached before that stay in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    agent_digest = _agent_digest(agent, policy_digest)
    fingerprints = [_fingerprint(agent_digest, group) for group in groups]
    verdicts: list[CriticVerdict] = []
    new: list[GroupCritique] = []
    with Manifest(path) as cache:
        records = [
            cache.find(group.sample.id, fingerprint)
            for group, fingerprint in zip(groups, fingerprints, strict=True)
        ]
        missing = [group for group, record in zip(groups, records, strict=True) if record is None]
        critiques = critique_many(agent, ((group.sample, group.hypotheses) for group in missing))
        for group, fingerprint, record in zip(groups, fingerprints, records, strict=True):
            if record is None:
                new.append(critique := next(critiques))
                verdicts.append(CriticVerdict.of(critique))
                if _is_complete(critique):
                    name = {"name": group.sample.id, "fingerprint": fingerprint}
                    cache.add({**name, **asdict(verdicts[-1])})
            else:
                verdicts.append(CriticVerdict.from_json(record))
            progress(len(verdicts))
    if needs_scores and len(new) == len(verdicts):
        require_scores(new)
    return verdicts


def _is_complete(critique: GroupCritique) -> bool:
    """Whether the same agent would reach the same verdict again."""
    broken = any(item.broken for item in critique.missing)
    return not (broken or None in critique.scores or unavailable_reason(critique.failures))


def _agent_digest(agent: CritiqueAgent, policy_digest: str) -> str:
    return json_digest({**agent.identity(), "policy": policy_digest, "program": _source_digest()}, length=64)


def _fingerprint(agent_digest: str, group: Group) -> str:
    """Of a verdict. The sample's id is a hash of its photograph."""
    sample, hypotheses = group.sample, group.hypotheses
    inputs = repr((sample.id, sample.box, sample.camera, hypotheses.camera))
    params = [column.numpy().tobytes() for column in vars(hypotheses.params).values()]
    return digest(agent_digest, inputs, *params)


@functools.cache
def _source_digest() -> str:
    """Of all files that shape a verdict: after a change of the program, groups are scored again."""
    paths = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*"))
    files = [GROUND_TRUTH, *(path for path in paths if path.suffix in SUFFIXES and path.is_file())]
    parts = (str(path.relative_to(ROOT)).encode() + path.read_bytes() for path in files)
    return digest(*parts, length=64)
