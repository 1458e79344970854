"""Compares backends of the agent on the same groups: agreement, paired differences, cost, lost questions.

Each backend explores a memory of its own, unless one is given for all. Their verdicts are cached in separate files, so
that a second run asks nothing again; the cost of a group is stored with its verdict. It counts the questions of the
critiques, not those of the exploration. Answers from a reply cache cost nothing.

    OUT/backends.parquet    one row per backend and group
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from agent.types import QuestionCounts
from agent.vlm import EmbeddedCritic, VLMBackend
from agent.vlm.options import OpenedBackend
from common.failures import ScoresMissing
from common.progress import Stage
from common.storage.files import PathLike
from common.storage.fingerprint import json_digest
from eval.benchmark.intervals import Interval
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.agreement import CriticAgreement, critic_agreement, short_name
from eval.critics.comparison import (
    CriticEvalSettings,
    agreements_json,
    numbers,
    open_bench,
    rho_difference,
)
from eval.critics.files.prices import Price
from eval.critics.files.result_files import group_fields, group_row, write_rows
from eval.critics.files.verdict_cache import CriticVerdict
from eval.critics.kinds import AGENT_ALONE
from hmr.policy.policy import DiffusionPolicy

__all__ = [
    "BackendComparison",
    "BackendResult",
    "BackendVerdicts",
    "OpenBackend",
    "backend_key",
    "backend_verdicts",
    "compare",
    "evaluate_backends",
    "refuse_repeated",
    "write_backends",
]

OpenBackend = Callable[[], AbstractContextManager[OpenedBackend]]


@dataclass(frozen=True)
class BackendVerdicts:
    """What one backend said about all groups. `errors` of the groups are those of the reference."""

    spec: str
    name: str
    revision: str
    groups: tuple[ScoredGroup, ...]
    questions: tuple[QuestionCounts, ...]  # by group


@dataclass(frozen=True)
class BackendResult:
    """Agreement of one backend by error metric, and what its critiques took; `dollars` is None without a price."""

    spec: str
    name: str
    revision: str
    agreements: Mapping[str, CriticAgreement]
    questions: QuestionCounts
    dollars: float | None

    @property
    def reply_s(self) -> float:
        """Seconds in which the backend replied, of all requests together."""
        return self.questions.reply_us / 1e6

    def to_json(self) -> dict[str, Any]:
        cost = {"reply_s": self.reply_s, "dollars": self.dollars}
        known = {"name": self.name, "revision": self.revision, "questions": self.questions.to_json()}
        return {**known, **cost, **agreements_json(self.agreements)}


@dataclass(frozen=True)
class BackendComparison:
    """Results by spec, and Spearman's rho of the first minus the second of each pair, by error metric."""

    backends: Mapping[str, BackendResult]
    differences: Mapping[tuple[str, str], Mapping[str, Interval | None]]
    hashes: Mapping[str, str | None]

    def require_scores(self) -> None:
        """Raises ScoresMissing if a backend gave no hypothesis a score."""
        for spec, result in self.backends.items():
            if all(agreement.none_rate == 1 for agreement in result.agreements.values()):
                raise ScoresMissing(f"{spec} gave no hypothesis a score")

    def to_json(self) -> dict[str, Any]:
        differences = [
            {
                "first": first,
                "second": second,
                "srcc_difference": {short_name(error): numbers(value) for error, value in found.items()},
            }
            for (first, second), found in self.differences.items()
        ]
        results = {spec: result.to_json() for spec, result in self.backends.items()}
        return {"backends": results, "differences": differences, **self.hashes}


def evaluate_backends(
    policy: DiffusionPolicy,
    backends: Mapping[str, OpenBackend],
    settings: CriticEvalSettings,
    out: PathLike,
    stage: Stage,
    *,
    prices: Mapping[str, Price] | None = None,
    workers: int = 1,
) -> BackendComparison:
    """Score the same groups with every backend, one after the other, using what is cached in `out`.

    backends: by spec; each is opened for its turn only, because two local models may not fit in memory together.
    Raises ValueError for settings of another critic than the agent.
    """
    if settings.choice != AGENT_ALONE:
        raise ValueError(
            f"several backends compare the critic agent, not {settings.critic}; give one --backend"
        )
    out, found = Path(out), []
    with open_bench(policy, EmbeddedCritic(), settings, out, stage, workers) as opened:
        for spec, open_backend in backends.items():
            with open_backend() as made:
                refuse_repeated(found, spec, made.backend)
                bench = replace(opened.bench, backend=made.backend)
                with bench.agent(settings.ablation) as agent:
                    tick = stage(f"scoring {len(bench.tests)} groups: {spec}", len(bench.tests))
                    name = f"{settings.ablation.name} {backend_key(made.backend)}"
                    verdicts = bench.critique(name, agent, bench.tests, tick, needs_scores=False)
                groups = [
                    group.scored(item.scores) for group, item in zip(bench.tests, verdicts, strict=True)
                ]
                found.append(backend_verdicts(spec, made.backend, groups, verdicts))
    hashes = {
        "benchmark": opened.benchmark,
        "calibration": opened.calibration,
        "base_policy": policy.digest(),
    }
    comparison = compare(found, ERROR_METRICS, prices or {}, hashes)
    write_backends(out / "backends.parquet", found, ERROR_METRICS, prices or {})
    return comparison


def backend_key(backend: VLMBackend) -> str:
    """Names the file of a backend's verdicts."""
    return json_digest([backend.name, backend.revision], length=12)


def backend_verdicts(
    spec: str, backend: VLMBackend, groups: Sequence[ScoredGroup], verdicts: Sequence[CriticVerdict]
) -> BackendVerdicts:
    questions = tuple(verdict.questions for verdict in verdicts)
    return BackendVerdicts(spec, backend.name, backend.revision, tuple(groups), questions)


def refuse_repeated(found: Sequence[BackendVerdicts], spec: str, backend: VLMBackend) -> None:
    """Raises ValueError for a backend whose verdicts are known already."""
    for item in found:
        if (item.name, item.revision) == (backend.name, backend.revision):
            raise ValueError(f"--backend {spec} is the same model with the same settings as {item.spec}")


def compare(
    found: Sequence[BackendVerdicts],
    metrics: Sequence[str],
    prices: Mapping[str, Price],
    hashes: Mapping[str, str | None],
) -> BackendComparison:
    results = {item.spec: backend_result(item, metrics, prices) for item in found}
    differences = {
        (first.spec, second.spec): {
            error: rho_difference(first.groups, second.groups, error) for error in metrics
        }
        for first, second in combinations(found, 2)
    }
    return BackendComparison(results, differences, hashes)


def backend_result(
    found: BackendVerdicts, metrics: Sequence[str], prices: Mapping[str, Price]
) -> BackendResult:
    questions = sum(found.questions, QuestionCounts())
    price = prices.get(found.spec, prices.get(found.name))
    agreements = {error: critic_agreement(found.groups, error) for error in metrics}
    dollars = None if price is None else price.dollars(questions)
    return BackendResult(found.spec, found.name, found.revision, agreements, questions, dollars)


def write_backends(
    path: Path, found: Sequence[BackendVerdicts], metrics: Sequence[str], prices: Mapping[str, Price]
) -> None:
    """Replace the table at `path`: one row per backend and group."""
    rows = [
        _row(item, group, questions, metrics, prices.get(item.spec, prices.get(item.name)))
        for item in found
        for group, questions in zip(item.groups, item.questions, strict=True)
    ]
    texts = [(name, pa.string()) for name in ("backend", "name", "revision")]
    counts = [(name, pa.int64()) for name in QuestionCounts().to_json()]
    write_rows(path, rows, [*texts, *group_fields(metrics), *counts, ("dollars", pa.float64())])


def _row(
    found: BackendVerdicts, group: ScoredGroup, questions: QuestionCounts, metrics: Sequence[str], price: Price | None
) -> dict[str, Any]:  # fmt: skip
    return {
        "backend": found.spec,
        "name": found.name,
        "revision": found.revision,
        **group_row(group, metrics),
        **questions.to_json(),
        "dollars": None if price is None else price.dollars(questions),
    }
