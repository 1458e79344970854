"""Verdicts on disk: a critic judges a group once, so that a comparison that is killed goes on where it stopped.

    OUT/verdicts/NAME.jsonl    a line a group, written as soon as it is judged

A line counts as long as all that shaped it is the same: the group, the judge with its settings, tools, rules and
prototypes, the policy behind its eyes, and the text of this program. A verdict with a failed score or a broken tool
is never kept, so the next run asks again. Left out: comments, tags and the tools' sentences, which no figure needs.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.concurrent import critique_many
from agent.types import Evidence, GroupCritique
from common.jsonl import Manifest
from eval.critics.groups import LabelledGroup

__all__ = ["Verdict", "judge_with_cache"]

ROOT = Path(__file__).parents[2]
JUDGES = ("agent", "memory", "hmr")  # the packages that a verdict is made by
HEADROOM = ROOT / "eval" / "critics" / "true_detector.py"
TEXTS = (".py", ".json", ".md")  # code, seed rules, prompts


@dataclass(frozen=True)
class Verdict:
    """What a figure needs of a critique: the scores, and the measurements without their words."""

    scores: tuple[float | None, ...]
    evidence: tuple[Evidence, ...]

    @staticmethod
    def of(critique: GroupCritique) -> Verdict:
        bare = (replace(item, parts=(), sentences=()) for item in critique.evidence)
        return Verdict(critique.scores, tuple(bare))

    @staticmethod
    def from_json(record: dict[str, Any]) -> Verdict:
        evidence = (
            Evidence(item["tool"], item["metric"], item["unit"], tuple(item["values"]), (), ())
            for item in record["evidence"]
        )
        return Verdict(tuple(record["scores"]), tuple(evidence))


def judge_with_cache(
    path: Path,
    agent: CritiqueAgent,
    policy: str,
    groups: Sequence[LabelledGroup],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """The agent's verdicts in the order of the groups, from the file at `path` where they are there.

    `policy` is the digest of the policy that the agent sees with. Raises what `critique_many` raises; what was judged
    until then is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    judge = _digest_of(agent, policy)
    stamps = [_stamp(judge, group) for group in groups]
    verdicts: list[Verdict] = []
    with Manifest(path) as kept:
        found = [kept.find(g.labelled.sample.id, stamp) for g, stamp in zip(groups, stamps, strict=True)]
        unjudged = [group for group, record in zip(groups, found, strict=True) if record is None]
        fresh = critique_many(agent, ((g.labelled.sample, g.hypotheses) for g in unjudged))
        for group, stamp, record in zip(groups, stamps, found, strict=True):
            if record is None:
                critique = next(fresh)
                verdicts.append(Verdict.of(critique))
                if None not in critique.scores and not any(item.broken for item in critique.missing):
                    name = {"name": group.labelled.sample.id, "stamp": stamp}
                    kept.add({**name, **asdict(verdicts[-1])})
            else:
                verdicts.append(Verdict.from_json(record))
            progress(len(verdicts))
    return verdicts


def _digest_of(agent: CritiqueAgent, policy: str) -> str:
    shaped_by = {
        "policy": policy,
        "program": _program(),
        "backend": [agent.backend.name, agent.backend.revision],
        "tools": [[tool.name, getattr(tool, "stamp", "")] for tool in agent.tools],
        "detector": getattr(agent.detector, "name", None),
        "settings": asdict(agent.settings),
        "rules": [asdict(rule) for rule in agent.rules.all()],
        "prototypes": [prototype.prototype_id for prototype in agent.prototypes.all()],
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()


def _stamp(judge: str, group: LabelledGroup) -> str:
    """Of a verdict; a sample's id is a hash of its photograph."""
    sample, hypotheses = group.labelled.sample, group.hypotheses
    digest = hashlib.sha256(judge.encode())
    digest.update(repr((sample.id, sample.box, sample.camera, hypotheses.camera)).encode())
    for column in vars(hypotheses.params).values():
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def _program() -> str:
    """The text of everything that judges: a changed program judges again."""
    digest = hashlib.sha256()
    for path in sorted([HEADROOM, *(path for name in JUDGES for path in (ROOT / name).rglob("*"))]):
        if path.suffix in TEXTS and path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
