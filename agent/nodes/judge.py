"""Judging: score the group, doubt the scores, revise what is in doubt."""

from __future__ import annotations

from typing import Any

import torch
from langgraph.runtime import Runtime

from agent.context import CritiqueContext
from agent.nodes.re_observation import look_again as look_again_with
from agent.nodes.re_observation import score_weighted_consensus
from agent.pictures.close_ups import close_up_part, disputed_part, draw_close_ups
from agent.pictures.panels import sheets, shown_at_once
from agent.prompts.answers import Doubt, Verdict, keyed_by_label
from agent.prompts.prompt_format import format_figures, format_metrics
from agent.prompts.question import Brief, labelled_metrics
from agent.scoring.ask import ask
from agent.scoring.ranking import label_names
from agent.scoring.scoring import score_group
from agent.state import CritiqueState
from agent.tracing.redaction import reason_of
from agent.types import Missing
from agent.vlm.protocol import DataPart

__all__ = ["look_again", "revise", "score", "self_reflect"]


def score(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Score the whole group at once, under several label orders."""
    resources, settings = runtime.context.resources, runtime.context.settings
    count = len(resources.hypotheses)
    result = score_group(resources.backend, _brief(state, runtime.context), count, settings)
    return {
        "scores": _by_index(result.scores),
        "comments": _by_index(result.comments),
        "reasons": _by_index((result.reason,) * count) if result.reason else {},
        "rank_dispersion": sum(result.rank_std) / count,
        "rank_std": _by_index(result.rank_std),
        "replies": list(result.replies),
    }


def self_reflect(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Measure what can be measured now that there are scores, and ask which of them are in doubt."""
    resources, settings = runtime.context.resources, runtime.context.settings
    known = _known(state)
    if len(known) < len(resources.hypotheses) or len(known) < 2:
        return {"doubts": {}, "second_look": [], "replies": []}
    scores = torch.tensor([state["scores"][str(j)] for j in known.values()])
    second_look = [dict(vars(score_weighted_consensus(resources.cases[state["case"]], scores)))]
    parts = [
        *_brief(state, runtime.context).parts(
            known, "reflect", _shown(list(known), runtime.context, whole=True)
        ),
        *_verdict_parts({**state, "second_look": second_look}, known),
        DataPart("dispersion_threshold", settings.dispersion_threshold),
    ]
    answer = ask(
        resources.backend, "reflect", parts, keyed_by_label("reflect", Doubt, list(known)), settings.seed
    )
    doubts = {}
    if answer.value is not None:
        found = {str(j): getattr(answer.value, label) for label, j in known.items()}
        doubts = {j: item.reason for j, item in found.items() if item.doubt}
    return {"doubts": doubts, "second_look": second_look, "replies": list(answer.replies)}


def look_again(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Buy evidence for the doubts: measurements once a critique, and for a judge with eyes close-ups of the doubted."""
    return {**_measure_again(state, runtime.context), "close_ups": _draw_close_ups(state, runtime.context)}


def _measure_again(state: CritiqueState, context: CritiqueContext) -> dict[str, Any]:
    """With the agent's own tools; a detector that breaks leaves the doubts to what is known."""
    resources = context.resources
    tools = {tool.name for tool in resources.tools}
    if state["bought"] or resources.detector is None:
        return {"bought": state["bought"]}
    # as at the first look: a detector may be a user's own model
    try:
        found = look_again_with(
            resources.cases[state["case"]], resources.detector, context.settings.seed, tools
        )
    except Exception as error:  # noqa: BLE001
        broken = Missing("second_look", reason_of(error), broken=True)
        return {"missing": [*state["missing"], dict(vars(broken))]}
    return {"bought": [dict(vars(item)) for item in found if None not in item.values]}


def _draw_close_ups(state: CritiqueState, context: CritiqueContext) -> dict[str, str]:
    """Of the most uncertain of those in doubt, as many as the question has room for; their hashes by hypothesis."""
    resources = context.resources
    chosen = _most_uncertain(state)[: _room_for_close_ups(len(state["doubts"]), context)]
    parts = {
        int(j): disputed_part(state["evidence"], int(j), state["doubts"][j], state["comments"][j])
        for j in chosen
    }
    close_ups = draw_close_ups(resources.cases[state["case"]], parts, resources.renderer)
    resources.close_ups.update({item.sha256: item for item in close_ups})
    return {str(item.hypothesis): item.sha256 for item in close_ups}


def _most_uncertain(state: CritiqueState) -> list[str]:
    return sorted(state["doubts"], key=lambda j: (-state["rank_std"][j], int(j)))


def _room_for_close_ups(doubted: int, context: CritiqueContext) -> int:
    """What settings and the backend's image limit leave beside the photograph and the panels of those in doubt."""
    settings, takes = context.settings, context.resources.backend.capabilities
    if not takes.images or takes.max_images is None:
        return settings.close_ups if takes.images else 0
    return max(0, min(settings.close_ups, takes.max_images - 1 - sheets(doubted, settings.pictures)))


def revise(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Ask again for the scores in doubt, and for no others; a malformed answer leaves them as they were."""
    resources, settings = runtime.context.resources, runtime.context.settings
    known, doubts = _known(state), state["doubts"]
    doubted = {label: str(j) for label, j in known.items() if str(j) in doubts}
    again = {
        label: resources.close_ups[state["close_ups"][j]]
        for label, j in doubted.items()
        if j in state["close_ups"]
    }
    parts = [
        *_brief(state, runtime.context).parts(known, "revise", _shown(list(doubted), runtime.context)),
        *(close_up_part(close_up, label) for label, close_up in again.items()),
        *_verdict_parts(state, known),
        DataPart("doubts", {label: doubts[j] for label, j in doubted.items()}),
    ]
    answer = ask(
        resources.backend, "revise", parts, keyed_by_label("revise", Verdict, list(doubted)), settings.seed
    )
    before = {j: state["scores"][j] for j in doubted.values()}
    verdicts = {j: getattr(answer.value, label) for label, j in doubted.items()} if answer.value else {}
    after = {**before, **{j: verdict.score for j, verdict in verdicts.items()}}
    revision = {
        "looked_at": [
            *(item["metric"] for item in (*state["second_look"], *state["bought"])),
            *(close_up.looked_at for close_up in again.values()),
        ],
        "hypotheses": [int(j) for j in before],
        "before": list(before.values()),
        "after": list(after.values()),
        "reason": answer.reason or "; ".join(sorted(set(doubts.values())))[:600],
    }
    return {
        "scores": after,
        "comments": {j: verdict.comment for j, verdict in verdicts.items()},
        "rank_std": {**state["rank_std"], **dict.fromkeys(verdicts, 0.0)},
        "revisions": [*state["revisions"], revision],
        "replies": list(answer.replies),
    }


def _brief(state: CritiqueState, context: CritiqueContext) -> Brief:
    resources = context.resources
    views = [resources.views[key] for key in state["views"]]
    known = (state["evidence"], state["rules"], state["prototypes"], state["tags"])
    return Brief(*known, resources.photo, views, context.settings.pictures)


def _shown(labels: list[str], context: CritiqueContext, whole: bool = False) -> list[str]:
    """As many of the hypotheses as the backend takes pictures of; with `whole`, all or none."""
    room = shown_at_once(context.resources.backend.capabilities.max_images, context.settings.pictures)
    if room is None or len(labels) <= room:
        return labels
    return [] if whole else labels[:room]


def _known(state: CritiqueState) -> dict[str, int]:
    """Labels of the hypotheses that have a score."""
    scored = sorted(int(j) for j, value in state["scores"].items() if value is not None)
    return dict(zip(label_names(len(scored)), scored, strict=True))


def _verdict_parts(state: CritiqueState, labels: dict[str, int]) -> list[DataPart]:
    scores = {label: state["scores"][str(j)] for label, j in labels.items()}
    rank_std = {label: state["rank_std"][str(j)] for label, j in labels.items()}
    second_look = labelled_metrics([*state["second_look"], *state["bought"]], labels)
    return [
        DataPart("scores", scores, format_figures(scores)),
        DataPart("rank_std", rank_std, format_figures(rank_std)),
        DataPart("second_look", second_look, format_metrics(second_look)),
    ]


def _by_index(values: tuple[Any, ...]) -> dict[str, Any]:
    return {str(j): value for j, value in enumerate(values)}
