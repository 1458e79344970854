"""Scoring nodes: score the group, find uncertain scores, reobserve them, and revise them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from langgraph.runtime import Runtime

from agent.context import CritiqueContext
from agent.events import ScoresRevised
from agent.nodes.reobservation import LATER_EVIDENCE, reobserved_evidence, score_weighted_consensus
from agent.pictures.close_ups import close_up_part, disputed_part, draw_close_ups
from agent.pictures.panels import sheets, shown_at_once
from agent.prompts.answers import Uncertainty, Verdict, keyed_by_label
from agent.prompts.prompt_format import format_metrics, format_numbers
from agent.prompts.question import Brief, labelled_metrics
from agent.scoring.ask import ask
from agent.scoring.ranking import label_names
from agent.scoring.scoring import GroupScores, score_group
from agent.state import CritiqueState
from agent.types import Missing, QuestionCounts, Revision
from agent.vlm.protocol import DataPart
from common.redaction import reason_of
from common.seeding import derive_seed

__all__ = ["reobserve", "restore_close_ups", "revise", "score", "scores_update", "self_reflect"]


def score(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Score the whole group, under several label orders."""
    resources, settings = runtime.context.resources, runtime.context.settings
    count = len(resources.hypotheses)
    brief, case_id = _brief(state, runtime.context), resources.sample.id
    result = score_group(resources.backend, brief, count, settings, case_id, runtime.stream_writer)
    return scores_update(result)


def scores_update(result: GroupScores) -> dict[str, Any]:
    """What a scoring node writes to the state."""
    count = len(result.scores)
    return {
        "scores": _by_index(result.scores),
        "comments": _by_index(result.comments),
        "reasons": _by_index((result.reason,) * count) if result.reason else {},
        "rank_dispersion": sum(result.rank_std) / count,
        "rank_std": _by_index(result.rank_std),
        "degeneracy": result.degeneracy,
        "replies": list(result.replies),
        "failures": [asdict(item) for item in result.failures],
        "questions": result.questions.to_json(),
    }


def self_reflect(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Measure the consensus that the scores imply, and ask which scores are uncertain."""
    resources, settings = runtime.context.resources, runtime.context.settings
    labels = _scored_labels(state)
    if len(labels) < len(resources.hypotheses) or len(labels) < 2:
        return {"uncertain": {}, "score_evidence": [], "replies": [], "questions": QuestionCounts().to_json()}
    scores = torch.tensor([state["scores"][str(j)] for j in labels.values()])
    score_evidence = [score_weighted_consensus(resources.case, scores).to_json()]
    shown = _shown(list(labels), runtime.context, all_or_none=True)
    parts = [
        *_brief(state, runtime.context).parts(labels, "reflect", shown),
        *_verdict_parts(state, labels, [*score_evidence, *state["reobserved_evidence"]]),
        DataPart("dispersion_threshold", settings.dispersion_threshold),
    ]
    model = keyed_by_label("reflect", Uncertainty, list(labels))
    answer = ask(resources.backend, "reflect", parts, model, settings.seed, runtime.stream_writer)
    uncertain, corrected = {}, {j for item in state["corrections"] for j in item["hypotheses"]}
    if answer.value is not None:
        by_index = {str(j): getattr(answer.value, label) for label, j in labels.items() if j not in corrected}
        uncertain = {j: item.reason for j, item in by_index.items() if item.uncertain}
    return {"uncertain": uncertain, "score_evidence": score_evidence, **answer.to_update()}


def reobserve(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Collect more evidence on uncertain scores: a second detection, once per critique, and close-ups for a backend
    that takes images."""
    return {
        **_reobserve_evidence(state, runtime.context),
        "close_ups": _draw_close_ups(state, runtime.context),
    }


def _reobserve_evidence(state: CritiqueState, context: CritiqueContext) -> dict[str, Any]:
    """With the agent's own tools. If the detector fails, the revision works without."""
    resources = context.resources
    tools = {tool.name for tool in resources.tools}
    if state["reobserved_evidence"] or resources.detector is None:
        return {"reobserved_evidence": state["reobserved_evidence"]}
    # As in render_views: a detector may be a user's own model.
    try:
        # other crops for every case
        seed = derive_seed(context.settings.seed, "reobserve", repr(resources.case.sample.box))
        found = reobserved_evidence(resources.case, resources.detector, seed, tools)
    except Exception as error:  # noqa: BLE001
        broken = Missing(LATER_EVIDENCE, reason_of(error), broken=True)
        return {"missing": [*state["missing"], asdict(broken)]}
    return {"reobserved_evidence": [item.to_json() for item in found if None not in item.values]}


def _draw_close_ups(state: CritiqueState, context: CritiqueContext) -> dict[str, str]:
    """Draw the hypotheses with the highest rank dispersion, as many as fit; returns their hashes by hypothesis."""
    ordered = sorted(state["uncertain"], key=lambda j: (-state["rank_std"][j], int(j)))
    chosen = ordered[: _max_close_ups(len(state["uncertain"]), context)]
    return _drawn_close_ups(state, context, chosen)


def restore_close_ups(state: Mapping[str, Any], context: CritiqueContext) -> None:
    """Draw the close-ups again that were drawn in another process and whose hypotheses are still uncertain."""
    drawn = [j for j in state.get("close_ups", ()) if j in state["uncertain"]]
    if drawn:
        _drawn_close_ups(state, context, drawn)


def _drawn_close_ups(
    state: Mapping[str, Any], context: CritiqueContext, chosen: Sequence[str]
) -> dict[str, str]:
    resources = context.resources
    parts = {
        int(j): disputed_part(state["evidence"], int(j), state["uncertain"][j], state["comments"][j])
        for j in chosen
    }
    close_ups = draw_close_ups(resources.case, parts, resources.renderer)
    resources.close_ups.update({item.sha256: item for item in close_ups})
    return {str(item.hypothesis): item.sha256 for item in close_ups}


def _max_close_ups(uncertain: int, context: CritiqueContext) -> int:
    """The images left by the backend's limit after the photograph and the panels of `uncertain` hypotheses."""
    settings, limits = context.settings, context.resources.backend.capabilities
    if not limits.images or limits.max_images is None:
        return settings.close_ups if limits.images else 0
    return max(0, min(settings.close_ups, limits.max_images - 1 - sheets(uncertain, settings.pictures)))


def revise(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Ask again for the uncertain scores only. If there is no valid answer, they stay as they are."""
    resources, settings = runtime.context.resources, runtime.context.settings
    labels, reasons = _scored_labels(state), state["uncertain"]
    uncertain = {label: str(j) for label, j in labels.items() if str(j) in reasons}
    close_ups = {
        label: resources.close_ups[state["close_ups"][j]]
        for label, j in uncertain.items()
        if j in state["close_ups"]
    }
    parts = [
        *_brief(state, runtime.context).parts(labels, "revise", _shown(list(uncertain), runtime.context)),
        *(close_up_part(close_up, label) for label, close_up in close_ups.items()),
        *_verdict_parts(state, labels, [*state["score_evidence"], *state["reobserved_evidence"]]),
        DataPart("uncertain", {label: reasons[j] for label, j in uncertain.items()}),
    ]
    model = keyed_by_label("revise", Verdict, list(uncertain))
    answer = ask(resources.backend, "revise", parts, model, settings.seed, runtime.stream_writer)
    verdicts = {j: getattr(answer.value, label) for label, j in uncertain.items()} if answer.value else {}
    before = {j: state["scores"][j] for j in uncertain.values()}
    after = {**before, **{j: verdict.score for j, verdict in verdicts.items()}}
    revision = Revision(
        hypotheses=tuple(map(int, before)),
        before=tuple(before.values()),
        after=tuple(after.values()),
        reason=answer.reason or _reasons_by_hypothesis(reasons)[:600],
        evidence_used=(
            *(item["metric"] for item in (*state["score_evidence"], *state["reobserved_evidence"])),
            *(close_up.description for close_up in close_ups.values()),
        ),
    )
    runtime.stream_writer(ScoresRevised(revision))
    return {
        "scores": after,
        "comments": {j: verdict.comment for j, verdict in verdicts.items()},
        "rank_std": {**state["rank_std"], **dict.fromkeys(verdicts, 0.0)},
        "revisions": [*state["revisions"], asdict(revision)],
        **answer.to_update(),
    }


def _reasons_by_hypothesis(reasons: dict[str, str]) -> str:
    """Each reason once, after the hypotheses that it is about."""
    names: dict[str, list[str]] = {}
    for index, reason in sorted(reasons.items(), key=lambda item: int(item[0])):
        names.setdefault(reason, []).append(f"h{index}")
    return "; ".join(f"{', '.join(about)}: {reason}" for reason, about in names.items())


def _brief(state: CritiqueState, context: CritiqueContext) -> Brief:
    resources = context.resources
    views = [resources.views[key] for key in state["views"]]
    retrieved = (state["rules"], state["prototypes"], state["tags"])
    return Brief(state["evidence"], *retrieved, resources.photo, views, context.settings.pictures)


def _shown(labels: list[str], context: CritiqueContext, all_or_none: bool = False) -> list[str]:
    """The hypotheses whose images fit in one question: the first ones, or with `all_or_none` all or none."""
    limit = shown_at_once(context.resources.backend.capabilities.max_images, context.settings.pictures)
    if limit is None or len(labels) <= limit:
        return labels
    return [] if all_or_none else labels[:limit]


def _scored_labels(state: CritiqueState) -> dict[str, int]:
    """The hypotheses that have a score, by label."""
    scored = sorted(int(j) for j, value in state["scores"].items() if value is not None)
    return dict(zip(label_names(len(scored)), scored, strict=True))


def _verdict_parts(
    state: CritiqueState, labels: dict[str, int], evidence: Sequence[dict[str, Any]]
) -> list[DataPart]:
    """The scores, their rank dispersion, and the evidence measured after scoring."""
    scores = {label: state["scores"][str(j)] for label, j in labels.items()}
    rank_std = {label: state["rank_std"][str(j)] for label, j in labels.items()}
    metrics = labelled_metrics(evidence, labels)
    return [
        DataPart("scores", scores, format_numbers(scores)),
        DataPart("rank_std", rank_std, format_numbers(rank_std)),
        DataPart("later_evidence", metrics, format_metrics(metrics)),
    ]


def _by_index(values: tuple[Any, ...]) -> dict[str, Any]:
    return {str(j): value for j, value in enumerate(values)}
