"""Compares backends of the agent with rankings by people; `meshcritic critic-eval --rankings` runs it.

OUT/backends.parquet    one row per backend and group; the error `people` is 1 minus the mean worth
OUT/verdicts/           verdicts by backend, so that a second run asks nothing again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.context import CritiqueSettings
from agent.default import open_default_agent
from common.progress import Stage
from eval.critics.backends import (
    BackendComparison,
    BackendVerdicts,
    OpenBackend,
    backend_key,
    backend_verdicts,
    compare,
    refuse_repeated,
    write_backends,
)
from eval.critics.files.prices import Price
from eval.critics.files.verdict_cache import critique_with_cache
from eval.rankings.agreement import PEOPLE, JudgeAgreement, judge_agreement, people_group
from eval.rankings.file import Rankings
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detector, Hypotheses, Sample

__all__ = ["PeopleComparison", "PhotoGroup", "evaluate_on_people"]


@dataclass(frozen=True)
class PhotoGroup:
    """A group of a rankings file, read from its files."""

    name: str
    sample: Sample
    hypotheses: Hypotheses


@dataclass(frozen=True)
class PeopleComparison:
    """Agreement of backends with people, and of people with each other."""

    backends: BackendComparison
    judges: JudgeAgreement

    def to_json(self) -> dict[str, Any]:
        return {**self.backends.to_json(), "people": self.judges.to_json()}


def evaluate_on_people(
    policy: DiffusionPolicy,
    body: Body,
    backends: Mapping[str, OpenBackend],
    groups: Sequence[PhotoGroup],
    rankings: Rankings,
    out: Path,
    stage: Stage,
    *,
    memory: Path | None = None,
    detector: Detector | None = None,
    settings: CritiqueSettings | None = None,
    prices: Mapping[str, Price] | None = None,
) -> PeopleComparison:
    """Score the ranked groups with every backend, one after the other. memory: None for the seed rules.

    Raises ValueError if nobody ranked any of the groups.
    """
    ranked = {order.group for order in rankings.orders}
    groups = [group for group in groups if group.name in ranked]
    if not groups:
        raise ValueError("the file of rankings has no order of any group; `meshcritic rank` collects them")
    found: list[BackendVerdicts] = []
    for spec, open_backend in backends.items():
        with (
            open_backend() as opened,
            open_default_agent(
                policy, body, memory, backend=opened.backend, trace=None, detector=detector, settings=settings
            ) as agent,
        ):
            refuse_repeated(found, spec, opened.backend)
            tick = stage(f"scoring {len(groups)} groups: {spec}", len(groups))
            path = out / "verdicts" / f"photographs-{backend_key(opened.backend)}.jsonl"
            verdicts = critique_with_cache(path, agent, policy.digest(), groups, tick, needs_scores=False)
            scored = [
                people_group(rankings, group.name, group.name, verdict.scores)
                for group, verdict in zip(groups, verdicts, strict=True)
            ]
            found.append(backend_verdicts(spec, opened.backend, scored, verdicts))
    write_backends(out / "backends.parquet", found, [PEOPLE], prices or {})
    return PeopleComparison(compare(found, [PEOPLE], prices or {}, {}), judge_agreement(rankings))
