"""The nodes of the exploration graph, in the order in which they run.

A step that a later process must not repeat writes its result and its own name in one transaction. The nodes `score` and
`judge` write nothing; `write_back` does it for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from langgraph.runtime import Runtime
from langgraph.types import interrupt

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
    fit_rule_weights,
    metric_agreement,
    mine_rules,
    ranks,
    rescore,
)
from agent.exploration.trials import admit_quarantined, trial_name, tried_rules
from agent.nodes.reobservation import latest
from agent.prompts.question import Brief, prototype_json, rule_json
from agent.types import GroupCritique, QuestionFailure
from common.storage.fingerprint import digest
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Hypotheses, Labelled
from memory.prototype_memory import Prototype
from memory.retirement import retire_failing, retire_fruitless
from memory.rule import Rule
from memory.text_limits import MAX_TAGS, MAX_TEXT_CHARS

__all__ = [
    "admit",
    "conclude",
    "judge",
    "mean_srcc",
    "mine",
    "open_batch",
    "retire",
    "review_rules",
    "reweigh",
    "score",
    "write_back",
]

Json = dict[str, Any]


def open_batch(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Find the cases of the batch that are not explored yet, and load the records of the others."""
    resources = runtime.context.resources
    ids, rules = resources.batches[state["batch"]], resources.exploring_agent.rules
    resources.explored |= {
        case_id: Explored.from_json(case_id, record) for case_id, record in rules.explored(ids).items()
    }
    return {
        "todo": [case_id for case_id in ids if not rules.has_case(case_id)],
        **_exploration_ids(resources),
    }


def score(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Run the critique on the next case, without access to its truth."""
    resources = runtime.context.resources
    labelled = resources.calibration[state["todo"][0]]
    group = (labelled, resources.propose(labelled.sample))
    case, critique = resources.current = _critique(resources.exploring_agent, *group)
    return {
        "case_id": labelled.sample.id,
        "trace_id": critique.trace_id,
        "failures": _failures(case.failures),
    }


def judge(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Spearman's rho of the scores with the true errors, and whether it exceeds tau."""
    resources = runtime.context.resources
    case, _ = resources.current
    return {"srcc": case.srcc, "success": _is_success(case, resources.settings.success_srcc)}


def write_back(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Count the rules used, add a prototype and record the case, in one transaction.

    A case that the backend left `unscored` gives no information on the rules: it is not counted, and a later run
    explores it again.
    """
    resources = runtime.context.resources
    case, critique = resources.current
    rest = {"todo": state["todo"][1:], **_exploration_ids(resources)}
    if case.unscored:
        return {**rest, "unscored": 1}
    agent, prototype = resources.exploring_agent, _prototype(case, critique)
    embedding = agent.image_embedder(resources.calibration[case.case_id].sample)
    used = [retrieved.rule.rule_id for retrieved in critique.rules]
    with agent.rules.transaction():
        recorded = agent.rules.record_case(case.case_id, used, state["success"], case.to_json())
        if recorded and prototype is not None:
            agent.prototypes.add([(prototype, embedding)])
    resources.explored[case.case_id] = case
    counts = (len(resources.explored), len(resources.calibration))
    resources.on_case(Progress(*counts, case.srcc, mean_srcc(resources.explored.values())))
    return {**rest, "explored": 1}


def mine(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Mine one or two rules, into quarantine, from the differences between scores and truth in this batch."""
    resources = runtime.context.resources
    ids, agent = resources.batches[state["batch"]], resources.exploring_agent
    step = f"mine/{_digest(ids)}"
    if agent.rules.is_done(step) or not all(case_id in resources.explored for case_id in ids):
        return {"mined": []}
    mined = mine_rules(agent.backend, agent.settings.seed, [resources.explored[case_id] for case_id in ids])
    with agent.rules.transaction():
        added = agent.rules.add(mined.rules, f"mined by {agent.backend.name} from {len(ids)} cases")
        if mined.answer.value is not None:  # otherwise a later run asks again
            agent.rules.mark_done(step)
    return {"mined": added, **mined.answer.to_update()}


def retire(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Retire rules that fail repeatedly, and go to the next batch."""
    resources = runtime.context.resources
    rules, step = resources.exploring_agent.rules, f"retire/{_digest(resources.batches[state['batch']])}"
    retired: list[str] = []
    if not rules.is_done(step):
        with rules.transaction():
            retired = retire_failing(rules, resources.settings.retirement)
            rules.mark_done(step)
    return {"retired": retired, "batch": state["batch"] + 1}


def review_rules(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Ask a person which of the rules in quarantine are worth a trial; the others retire.

    Raises ValueError for an answer that is no list of their ids.
    """
    rules = runtime.context.resources.exploring_agent.rules
    pending = {rule.rule_id: rule for rule in rules.all() if rule.state == "quarantined"}
    if not pending:
        return {"retired": []}
    kept = interrupt([_rule_to_review(rule) for rule in pending.values()])
    if not isinstance(kept, list) or not set(kept) <= pending.keys():
        raise ValueError(f"a review of rules is a list of ids out of {', '.join(pending)}, not {kept!r}")
    refused = [rule_id for rule_id in pending if rule_id not in kept]
    with rules.transaction():
        for rule_id in refused:
            rules.set_state(rule_id, "retired", "by a person's review", None)
    return {"retired": refused}


def _rule_to_review(rule: Rule) -> Json:
    return {
        "id": rule.rule_id,
        "text": rule.text,
        "tags": list(rule.tags),
        "predicate": asdict(rule.predicate) if rule.predicate else None,
        "provenance": asdict(rule.provenance),
    }


def admit(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Try the quarantined rules on the held-out cases, and admit those that raise mean rho."""
    resources = runtime.context.resources
    resources.held_out_groups = [(case, resources.propose(case.sample)) for case in resources.held_out]
    resources.held_out_baseline = _critique_held_out(resources)
    agent, rules = resources.frozen_agent, resources.frozen_agent.rules
    admission = admit_quarantined(
        rules,
        agent.backend,
        resources.held_out_baseline,
        agent.settings,
        resources.settings.min_gain,
        _trial_name(resources),
    )
    failures = [failure for case in resources.held_out_baseline for failure in case.failures]
    return {
        "admitted": [rule.rule_id for rule in admission.rules],
        "retired": retire_fruitless(rules, resources.settings.retirement),
        "blocked_cases": sorted(admission.unscored),
        "held_out_srcc_before": mean_srcc(resources.held_out_baseline),
        "failures": _failures([*failures, *admission.failures]),
    }


def reweigh(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Fit the weights on all explored cases, and admit the new rules if they rank the held-out cases better.

    The fit is left to a later run if any case has no score, here or in the trials before: it has to include all
    admitted rules.
    """
    resources = runtime.context.resources
    agent, rules = resources.frozen_agent, resources.frozen_agent.rules
    cases = [
        resources.explored[case_id] for case_id in resources.calibration if case_id in resources.explored
    ]
    trial = _trial_name(resources)
    step = f"weigh/{_digest([*(case.case_id for case in cases), trial, *tried_rules(rules, trial)])}"
    if not cases or state["blocked_cases"] or rules.is_done(step):
        return {"reweighed": 0}
    fit = fit_rule_weights(
        rules, agent.backend, cases, resources.held_out_baseline, agent.settings, resources.settings.min_gain
    )
    rescored = rescore(list(fit.rules.values()), agent.backend, cases if fit.changed else [], agent.settings)
    failures = _failures([*fit.failures, *(failure for case in rescored for failure in case.failures)])
    unscored = fit.unscored | {case.case_id for case in rescored if case.unscored}
    if unscored:
        return {"reweighed": 0, "blocked_cases": sorted(unscored), "failures": failures}
    changed = [rule.rule_id for rule in fit.changed.values()]
    with rules.transaction():
        fit.write(rules)
        for case in rescored:
            rules.recount_case(case.case_id, changed, _is_success(case, resources.settings.success_srcc))
        rules.mark_done(step)
    return {"reweighed": len(changed), "failures": failures}


def conclude(state: ExplorationState, runtime: Runtime[ExplorationContext]) -> Json:
    """Score the held-out cases again if rules or weights have changed."""
    resources = runtime.context.resources
    changed = state["admitted"] or state["reweighed"]
    cases = _critique_held_out(resources) if changed else resources.held_out_baseline
    failures = [failure for case in cases if changed for failure in case.failures]
    return {"held_out_srcc_after": mean_srcc(cases), "failures": _failures(failures)}


def mean_srcc(cases: Iterable[Explored]) -> float | None:
    """Mean over the cases that have a rho; None without any."""
    known = [case.srcc for case in cases if case.srcc is not None]
    return sum(known) / len(known) if known else None


def _critique(
    agent: CritiqueAgent, labelled: Labelled, hypotheses: Hypotheses
) -> tuple[Explored, GroupCritique]:
    critique = agent.critique(labelled.sample, hypotheses)
    joints = agent.body.joints(hypotheses.params)
    errors_mm = tuple(mpjpe_mm(joints, labelled.truth.joints_cam_m[None]).tolist())
    brief = Brief(
        evidence=[item.to_json() for item in latest(critique.evidence)],
        rules=[rule_json(item) for item in critique.rules],
        prototypes=[prototype_json(item) for item in critique.prototypes],
        tags=critique.tags,
    )
    return Explored(labelled.sample.id, brief, critique.scores, errors_mm, critique.failures), critique


def _critique_held_out(resources: ExplorationResources) -> list[Explored]:
    return [_critique(resources.frozen_agent, *group)[0] for group in resources.held_out_groups]


def _prototype(case: Explored, critique: GroupCritique) -> Prototype | None:
    """The truly best hypothesis if the ranking agrees with the truth, otherwise the one with the largest error in rank.

    None if a hypothesis has no score, or if the memory rejects the comment.
    """
    scores = [score for score in case.scores if score is not None]
    if len(scores) < len(case.scores):
        return None
    true_ranks, score_ranks = ranks(case.errors_mm), ranks([-score for score in scores])
    agrees = (case.srcc or 0.0) > 0
    chosen = int(true_ranks.argmin() if agrees else np.abs(true_ranks - score_ranks).argmax())
    place = f"Truly number {true_ranks[chosen] + 1} of {len(scores)}, ranked {score_ranks[chosen] + 1}."
    values = {item["metric"]: item["values"][chosen] for item in case.brief.evidence}
    # The memory rejects web addresses and control characters, which a backend's comment may contain.
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


def _failures(failures: Iterable[QuestionFailure]) -> list[Json]:
    return [asdict(failure) for failure in failures]


def _is_success(case: Explored, tau: float) -> bool:
    return case.srcc is not None and case.srcc > tau


def _exploration_ids(resources: ExplorationResources) -> Json:
    """The ids in the trace of steps that concern many cases."""
    return {"case_id": EXPLORATION, "trace_id": resources.run_id}


def _trial_name(resources: ExplorationResources) -> str:
    held_out = [labelled.sample.id for labelled in resources.held_out]
    return trial_name(resources.frozen_agent.backend.name, held_out)


def _digest(names: Sequence[str]) -> str:
    return digest("\n".join(names), length=12)
