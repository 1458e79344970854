"""The nodes of the exploration graph, in the order they run.

A step that a later process must not repeat writes its finding and its own name in one transaction; a step
without such a name (`score`, `judge`) leaves nothing behind until `write_back` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from langgraph.runtime import Runtime

from agent.agent import CritiqueAgent
from agent.exploration.context import (
    EXPLORATION,
    ExplorationContext,
    ExplorationResources,
    ExplorationState,
    Progress,
)
from agent.exploration.learning import (
    Explored,
    admit_quarantined,
    metric_agreement,
    mine_rules,
    places,
    recount,
)
from agent.exploration.learning import reweigh as fit_and_try
from agent.nodes.re_observation import latest
from agent.prompts.question import Brief, prototype_json, rule_json
from agent.types import GroupCritique
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Hypotheses, Labelled
from memory.prototypes import Prototype
from memory.retirement import retire_failing, retire_fruitless
from memory.text_limits import MAX_TAGS, MAX_TEXT_CHARS

__all__ = [
    "admit",
    "conclude",
    "judge",
    "mean_srcc",
    "mine",
    "open_batch",
    "retire",
    "reweigh",
    "score",
    "write_back",
]

Json = dict[str, Any]


def open_batch(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """See which cases of the batch an earlier run has explored, and recall what they taught."""
    resources = runtime.context.resources
    ids, rules = resources.batches[state["batch"]], resources.exploring_agent.rules
    resources.explored |= {
        case_id: Explored.from_json(case_id, kept) for case_id, kept in rules.explored(ids).items()
    }
    return {"todo": [case_id for case_id in ids if not rules.has_case(case_id)], **_home(resources)}


def score(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Run the critique on the next case; truth stays outside."""
    resources = runtime.context.resources
    labelled = resources.calibration[state["todo"][0]]
    resources.open_case = _judged(resources.exploring_agent, labelled, resources.propose(labelled.sample))
    return {"case_id": labelled.sample.id, "trace_id": resources.open_case[1].trace_id}


def judge(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Spearman's rho of the scores with the true errors, and whether it exceeds tau."""
    case, _ = _open_case(runtime.context.resources)
    return {"srcc": case.srcc, "success": _success(case, runtime.context.resources.settings.success_srcc)}


def write_back(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Count the rules used, remember a representative hypothesis, keep what the fit needs: all or nothing.

    A case without a single score says nothing of the rules: it is not counted, and a later run tries it again.
    """
    resources = runtime.context.resources
    case, critique = _open_case(resources)
    rest = {"todo": state["todo"][1:], **_home(resources)}
    if case.unscored:
        return {**rest, "unscored": 1}
    agent, prototype = resources.exploring_agent, _prototype(case, critique)
    embedding = agent.image_embedder(resources.calibration[case.case_id].sample)
    used = [retrieved.rule.rule_id for retrieved in critique.rules]
    with agent.rules.transaction():
        if prototype is not None:
            agent.prototypes.add([(prototype, embedding)])
        agent.rules.record_case(case.case_id, used, state["success"], case.to_json())
    resources.explored[case.case_id] = case
    resources.on_case(
        Progress(
            len(resources.explored),
            len(resources.calibration),
            case.srcc,
            mean_srcc(resources.explored.values()),
        )
    )
    return {**rest, "explored": 1}


def mine(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Where did the verdicts of this batch disagree with the truth? One or two rules from it, into quarantine."""
    resources = runtime.context.resources
    ids, rules, agent = (
        resources.batches[state["batch"]],
        resources.exploring_agent.rules,
        resources.exploring_agent,
    )
    step = f"mine/{_digest(ids)}"
    if rules.is_done(step) or not all(case_id in resources.explored for case_id in ids):
        return {"mined": []}
    found = mine_rules(agent.backend, agent.settings.seed, [resources.explored[case_id] for case_id in ids])
    with rules.transaction():
        added = rules.add(found.rules, f"mined by {agent.backend.name} from {len(ids)} cases")
        if found.answered:  # a backend that failed is asked again by a later run
            rules.mark_done(step)
    return {"mined": added, "replies": list(found.replies)}


def retire(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Rules that keep failing leave service; then on to the next batch."""
    resources = runtime.context.resources
    rules, step = resources.exploring_agent.rules, f"retire/{_digest(resources.batches[state['batch']])}"
    retired: list[str] = []
    if not rules.is_done(step):
        with rules.transaction():
            retired = retire_failing(rules, resources.settings.retirement)
            rules.mark_done(step)
    return {"retired": retired, "batch": state["batch"] + 1}


def admit(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Try the quarantined rules on the held-out cases; those that raise mean rho enter service."""
    resources = runtime.context.resources
    resources.trials = [(labelled, resources.propose(labelled.sample)) for labelled in resources.held_out]
    resources.tried = [_judged(resources.judge, *trial)[0] for trial in resources.trials]
    agent, rules = resources.judge, resources.judge.rules
    admission = admit_quarantined(
        rules,
        agent.backend,
        resources.tried,
        agent.settings,
        resources.settings.min_gain,
        _held_out(resources),
    )
    return {
        "admitted": [rule.rule_id for rule in admission.rules],
        "retired": retire_fruitless(rules, resources.settings.retirement),
        "held_up": sorted(admission.unscored),
        "held_out_srcc_before": mean_srcc(resources.tried),
    }


def reweigh(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Fit the weights on every explored case; where that ranks the held-out cases better, the new ones serve.

    A case without a single score puts it off to a later run, and so does one at the trials before: the fit is of
    all rules that serve.
    """
    resources = runtime.context.resources
    agent, rules = resources.judge, resources.judge.rules
    cases = [
        resources.explored[case_id] for case_id in resources.calibration if case_id in resources.explored
    ]
    step = f"weigh/{_digest([*(case.case_id for case in cases), _held_out(resources)])}"
    if not cases or state["held_up"] or rules.is_done(step):
        return {"reweighed": 0}
    new = fit_and_try(
        rules, agent.backend, cases, resources.tried, agent.settings, resources.settings.min_gain
    )
    judged = recount(list(new.rules.values()), agent.backend, cases if new.made else [], agent.settings)
    unscored = new.unscored | {case.case_id for case in judged if case.unscored}
    if unscored:
        return {"reweighed": 0, "held_up": sorted(unscored)}
    made = [rule.rule_id for rule in new.made.values()]
    with rules.transaction():
        new.write(rules)
        for case in judged:
            rules.recount_case(case.case_id, made, _success(case, resources.settings.success_srcc))
        rules.mark_done(step)
    return {"reweighed": len(new.rules)}


def conclude(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Judge the held-out cases again if anything that judges them has changed."""
    resources = runtime.context.resources
    changed = state["admitted"] or state["reweighed"]
    after = (
        [_judged(resources.judge, *trial)[0] for trial in resources.trials] if changed else resources.tried
    )
    return {"held_out_srcc_after": mean_srcc(after)}


def mean_srcc(cases: Iterable[Explored]) -> float | None:
    """Mean over the cases that have a rho."""
    known = [case.srcc for case in cases if case.srcc is not None]
    return sum(known) / len(known) if known else None


def _judged(
    agent: CritiqueAgent, labelled: Labelled, hypotheses: Hypotheses
) -> tuple[Explored, GroupCritique]:
    critique = agent.critique(labelled.sample, hypotheses)
    joints = agent.body.joints(hypotheses.params)
    errors_mm = mpjpe_mm(joints, labelled.truth.joints_cam_m[None])
    brief = Brief(
        evidence=[asdict(item) for item in latest(critique.evidence)],
        rules=[rule_json(item) for item in critique.rules],
        prototypes=[prototype_json(item) for item in critique.prototypes],
        tags=critique.tags,
    )
    return Explored(labelled.sample.id, brief, critique.scores, tuple(errors_mm.tolist())), critique


def _prototype(case: Explored, critique: GroupCritique) -> Prototype | None:
    """The hypothesis judged farthest from its true place, or the truly best one where the ranking held.

    None where a hypothesis has no score, and where the comment is not fit to be remembered.
    """
    scores = [score for score in case.scores if score is not None]
    if len(scores) < len(case.scores):
        return None
    truth, verdict = places(case.errors_mm), places([-score for score in scores])
    held = (case.srcc or 0.0) > 0
    chosen = int(truth.argmin() if held else np.abs(truth - verdict).argmax())
    place = f"Truly number {truth[chosen] + 1} of {len(truth)}, ranked {verdict[chosen] + 1}."
    values = {item["metric"]: item["values"][chosen] for item in case.brief.evidence}
    # The memory refuses addresses and control characters, which a backend's comment may hold.
    try:
        return Prototype.create(
            case_id=case.case_id,
            rationale=f"{place} {critique.comments[chosen]}"[:MAX_TEXT_CHARS],
            score=round(scores[chosen], 2),
            tags=critique.tags[:MAX_TAGS],
            evidence={metric: value for metric, value in values.items() if value is not None},
            weights=metric_agreement(case),
        )
    except ValueError:
        return None


def _open_case(resources: ExplorationResources) -> tuple[Explored, GroupCritique]:
    assert resources.open_case is not None, "`score` comes before whatever looks at its verdict"
    return resources.open_case


def _success(case: Explored, tau: float) -> bool:
    return case.srcc is not None and case.srcc > tau


def _home(resources: ExplorationResources) -> Json:
    """Steps about many cases are traced under one id."""
    return {"case_id": EXPLORATION, "trace_id": resources.run_id}


def _held_out(resources: ExplorationResources) -> str:
    """Which cases a trial was on, and who judged them."""
    return _digest([resources.judge.backend.name, *(labelled.sample.id for labelled in resources.held_out)])


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
