"""The exploration phase: judge images whose truth is known, and remember what that taught (method section 2).

For every case: score the group; count the rules it used, as a success if Spearman's rho with the true errors
exceeds tau; write a representative hypothesis to the prototypes, with how far each metric agreed with the
truth. After every batch: mine new rules from the discrepancy, into quarantine. At the end, on held-out cases:
admit what helps, and fit the weights. Done cases are known by the memory's own database, so a killed
exploration goes on where it stopped; what it mined and admitted is kept, while the fit of the weights sees
the cases of the last run only.

Only this module and `agent/learning.py` see truth. Left out: a graph of its own around the critique's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from agent.agent import CritiqueAgent
from agent.briefing import Brief, prototype_json, rule_json
from agent.judging import score_group
from agent.learning import (
    Explored,
    admit_quarantined,
    metric_agreement,
    mine_rules,
    places,
    plain_rule,
    reweigh,
)
from agent.types import GroupCritique
from hmr.metrics import mpjpe_mm
from hmr.types import Hypotheses, Labelled, Sample
from memory.limits import MAX_TEXT_CHARS
from memory.prototypes import Prototype

__all__ = ["ExplorationReport", "ExplorationSettings", "Progress", "explore"]

Propose = Callable[[Sample], Hypotheses]


@dataclass(frozen=True)
class ExplorationSettings:
    """Numbers the paper leaves out."""

    success_srcc: float = 0.4  # tau
    batch: int = 16  # cases between two rounds of mining
    min_gain: float = 0.002  # rise of mean rho on held-out cases that admits a rule


@dataclass(frozen=True)
class Progress:
    """One case explored."""

    done: int
    total: int
    srcc: float | None
    running_srcc: float | None  # mean over the cases of this run


@dataclass(frozen=True)
class ExplorationReport:
    """What came of it; rho is the mean over cases, None where none had a ranking."""

    cases: int  # explored now
    skipped: int  # explored by an earlier run
    srcc: float | None
    held_out_srcc_before: float | None
    held_out_srcc_after: float | None
    mined: tuple[str, ...]  # rule ids
    admitted: tuple[str, ...]
    reweighed: int


def explore(
    agent: CritiqueAgent,
    calibration: Sequence[Labelled],
    held_out: Sequence[Labelled],
    propose: Propose,
    settings: ExplorationSettings = ExplorationSettings(),
    on_case: Callable[[Progress], None] = lambda progress: None,
) -> ExplorationReport:
    """Explore `calibration`, try on `held_out` what was learned, and leave it in the agent's memories.

    `propose` gives each sample its hypotheses. The agent may be frozen or not: exploring, it is not. Raises
    FrozenMemoryError if its memories were opened read-only.
    """
    seeker, judge = replace(agent, frozen=False), replace(agent, frozen=True)
    todo = [case for case in calibration if not agent.rules.has_case(case.sample.id)]
    explored: list[Explored] = []
    mined: list[str] = []
    for batch in _batches(todo, settings.batch):
        for labelled in batch:
            explored.append(_explore_case(seeker, labelled, propose, settings.success_srcc))
            on_case(Progress(len(explored), len(todo), explored[-1].srcc, _mean(explored)))
        mined += agent.rules.add(mine_rules(agent.backend, agent.settings.seed, explored[-len(batch) :]))
    trials = [(labelled, propose(labelled.sample)) for labelled in held_out]
    before = [_judge(judge, *trial)[0] for trial in trials]
    admitted = admit_quarantined(agent.rules, agent.backend, before, agent.settings, settings.min_gain)
    reweighed = {}
    if explored:
        reweighed = reweigh(agent.rules, agent.backend, explored, before, agent.settings, settings.min_gain)
        _recount(agent, list(reweighed.values()), explored, settings.success_srcc)
    after = [_judge(judge, *trial)[0] for trial in trials]
    return ExplorationReport(
        cases=len(explored),
        skipped=len(calibration) - len(todo),
        srcc=_mean(explored),
        held_out_srcc_before=_mean(before),
        held_out_srcc_after=_mean(after),
        mined=tuple(mined),
        admitted=tuple(rule.rule_id for rule in admitted),
        reweighed=len(reweighed),
    )


def _explore_case(agent: CritiqueAgent, labelled: Labelled, propose: Propose, tau: float) -> Explored:
    """Judge one case and write back: first the prototype, last the count that marks the case as done."""
    case, critique = _judge(agent, labelled, propose(labelled.sample))
    if None not in case.scores:
        agent.prototypes.add([(_prototype(case, critique), agent.image_embedder(labelled.sample))])
    used = [retrieved.rule.rule_id for retrieved in critique.rules]
    agent.rules.record_case(case.case_id, used, _success(case.srcc, tau))
    return case


def _judge(
    agent: CritiqueAgent, labelled: Labelled, hypotheses: Hypotheses
) -> tuple[Explored, GroupCritique]:
    critique = agent.critique(labelled.sample, hypotheses)
    joints = agent.body.joints(hypotheses.params)
    errors_mm = mpjpe_mm(joints, labelled.truth.joints_cam_m[None])
    brief = Brief(
        evidence=[asdict(item) for item in critique.evidence if item.tool != "second_look"],
        rules=[rule_json(item) for item in critique.rules],
        prototypes=[prototype_json(item) for item in critique.prototypes],
        tags=critique.tags,
    )
    return Explored(labelled.sample.id, brief, critique.scores, tuple(errors_mm.tolist())), critique


def _prototype(case: Explored, critique: GroupCritique) -> Prototype:
    """The hypothesis judged farthest from its true place, or the truly best one where the ranking held."""
    truth, verdict = places(case.errors_mm), places([-score for score in case.scores if score is not None])
    held = (case.srcc or 0.0) > 0
    chosen = int(truth.argmin() if held else np.abs(truth - verdict).argmax())
    place = f"Truly number {truth[chosen] + 1} of {len(truth)}, ranked {verdict[chosen] + 1}."
    score = case.scores[chosen]
    assert score is not None
    values = {item["metric"]: item["values"][chosen] for item in case.brief.evidence}
    return Prototype.create(
        case_id=case.case_id,
        rationale=f"{place} {critique.comments[chosen]}"[:MAX_TEXT_CHARS],
        score=round(score, 2),
        tags=critique.tags[:12],
        evidence={metric: value for metric, value in values.items() if value is not None},
        weights=metric_agreement(case),
    )


def _recount(agent: CritiqueAgent, rules: Sequence, explored: Sequence[Explored], tau: float) -> None:
    """Give reweighed rules a record of their own: the explored cases judged again under them."""
    for case in explored if rules else []:
        brief = replace(case.brief, rules=[plain_rule(rule) for rule in rules])
        scores = score_group(agent.backend, brief, len(case.errors_mm), agent.settings).scores
        srcc = replace(case, scores=scores).srcc
        used = [rule.rule_id for rule in rules]
        agent.rules.record_case(f"{case.case_id}/reweighed", used, _success(srcc, tau))


def _success(srcc: float | None, tau: float) -> bool:
    return srcc is not None and srcc > tau


def _mean(cases: Sequence[Explored]) -> float | None:
    known = [case.srcc for case in cases if case.srcc is not None]
    return sum(known) / len(known) if known else None


def _batches(cases: Sequence[Labelled], size: int) -> Iterator[Sequence[Labelled]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
