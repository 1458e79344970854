"""The steps of a critique as tables of text, from the records of a trace: for the terminal and for the HTML page.

A record of another shape, such as one edited by hand, is shown as its keys and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.prompts.prompt_format import format_quantity

__all__ = ["StepTable", "call_tables", "step_table"]

Outputs = Mapping[str, Any]
SHOWN_CHARS = 300  # of a value without a table of its own
ABOUT = re.compile(r"(?:^|; )(h\d+(?:, h\d+)*): ")  # before each reason of a revision (`agent.nodes.scoring`)


@dataclass(frozen=True)
class StepTable:
    """Text only; whoever shows it escapes it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]


def step_table(record: Outputs) -> StepTable:
    """What a node wrote, without its requests."""
    title = f"{record['node']} ({record['ms']:.0f} ms)"
    outputs = {name: value for name, value in record["outputs"].items() if name != "replies"}
    # Another version, or a hand, may have written anything.
    try:
        return _VIEWS.get(record["node"], _other)(title, outputs)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return _other(title, outputs)


def call_tables(record: Outputs) -> list[StepTable]:
    """The calls that a model made in the agentic mode, a table per label order; empty for another step."""
    # Another version, or a hand, may have written anything.
    try:
        return [_examination(item) for item in record["outputs"].get("evidence_calls", ())]
    except (AttributeError, KeyError, TypeError):
        return []


def _examination(examination: Outputs) -> StepTable:
    labels = ", ".join(f"{label} is h{index}" for label, index in examination["labels"].items())
    rows = [
        (
            str(call["step"]),
            str(call["call"]),
            json.dumps(call["arguments"], ensure_ascii=False)[:SHOWN_CHARS],
            str(call.get("error") or json.dumps(call["result"], ensure_ascii=False)[:SHOWN_CHARS]),
        )
        for call in examination["calls"]
    ]
    return StepTable(f"calls under one label order: {labels}", ("step", "call", "arguments", "result"), rows)


def _evidence(title: str, outputs: Outputs) -> StepTable:
    """The best and the worst value of each metric; lower is better."""
    rows = _extremes(outputs["evidence"])
    rows += [(item["tool"], "-", "-", f"missing: {item['reason']}") for item in outputs["missing"]]
    return StepTable(title, ("metric", "best", "worst", "about the worst"), rows)


def _reobserved_evidence(title: str, outputs: Outputs) -> StepTable:
    """The same of what was reobserved."""
    rows = _extremes(outputs.get("reobserved_evidence", []))
    rows += [(item["tool"], "-", "-", f"missing: {item['reason']}") for item in outputs.get("missing", [])]
    return StepTable(title, ("reobserved", "best", "worst", "about the worst"), rows)


def _extremes(evidence: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for item in evidence:
        known = [(value, index) for index, value in enumerate(item["values"]) if value is not None]
        if not known:
            rows.append((item["metric"], "-", "-", item["sentences"][0] if item["sentences"] else ""))
            continue
        (low, best), (high, worst) = min(known), max(known)
        best_worst = (_named(best, low, item["unit"]), _named(worst, high, item["unit"]))
        rows.append((item["metric"], *best_worst, item["sentences"][worst]))
    return rows


def _named(index: int, value: float, unit: str) -> str:
    return f"h{index}: {format_quantity(value, unit)}"


def _rules(title: str, outputs: Outputs) -> StepTable:
    rows = [
        (
            rule["text"],
            f"{rule['similarity']:.2f} + {rule['tag_overlap']:.2f}",
            f"{rule['successes']}/{rule['uses']}",
            f"{rule['success_rate']:.2f} + {rule['bonus']:.2f}",
            f"{rule['psi']:.2f}",
        )
        for rule in outputs["rules"]
    ]
    columns = ("rule", "R = cosine + tags", "successes/uses", "U = rate + bonus", "Psi")
    tags = _lost(outputs) or ", ".join(outputs["tags"]) or "none"
    return StepTable(f"{title}, tags: {tags}", columns, rows)


def _prototypes(title: str, outputs: Outputs) -> StepTable:
    rows = [
        (f"{item['similarity']:.3f}", f"{item['score']:.0f}", item["rationale"])
        for item in outputs["prototypes"]
    ]
    return StepTable(title, ("similarity", "score", "rationale"), rows)


def _scores(title: str, outputs: Outputs) -> StepTable:
    """Best first; failed scores last, with the reason."""
    scores = outputs["scores"]
    order = sorted(scores, key=lambda index: -scores[index] if scores[index] is not None else 1)
    rows = [
        (
            f"h{index}",
            "-" if scores[index] is None else f"{scores[index]:.1f}",
            outputs.get("reasons", {}).get(index) or outputs.get("comments", {}).get(index, ""),
        )
        for index in order
    ]
    return StepTable(title, ("hypothesis", "score", "comment"), rows)


def _reflection(title: str, outputs: Outputs) -> StepTable:
    uncertain = [(f"h{index}", str(reason)) for index, reason in outputs["uncertain"].items()]
    evidence = outputs.get("score_evidence", [])
    measured = [
        (f"measured after scoring: {metric}", f"best {best}, worst {worst}: {sentence}")
        for metric, best, worst, sentence in _extremes(evidence)
    ]
    return StepTable(title, ("uncertain", "reason"), [*(uncertain or [_all_certain(outputs)]), *measured])


def _all_certain(outputs: Outputs) -> tuple[str, str]:
    """Why no score is revised: the question was not asked, got no answer, or found nothing."""
    if outputs.get("questions", {}).get("asked") == 0:
        return ("not asked", "some hypotheses have no score")
    if lost := _lost(outputs):
        return ("unknown", lost)
    return ("none", "no score is revised")


def _lost(outputs: Outputs) -> str:
    return "; ".join(f"not answered ({failure['reason']})" for failure in outputs.get("failures", []))


def _revision(title: str, outputs: Outputs) -> StepTable:
    rows = [
        (
            f"h{index}",
            _score(before),
            _score(after),
            _own_reason(item["reason"], f"h{index}"),
            ", ".join(item.get("evidence_used", [])),
        )
        for item in outputs.get("revisions", [])
        for index, before, after in zip(item["hypotheses"], item["before"], item["after"], strict=True)
    ]
    return StepTable(title, ("hypothesis", "before", "after", "reason", "evidence"), rows)


def _own_reason(reasons: str, hypothesis: str) -> str:
    """What the reasons of a revision say about one hypothesis; all of it if they name none, as when the question was
    lost."""
    _, *named = ABOUT.split(reasons)
    own = [
        text for names, text in zip(named[::2], named[1::2], strict=True) if hypothesis in names.split(", ")
    ]
    return "; ".join(own) if named else reasons


def _review(title: str, outputs: Outputs) -> StepTable:
    """What a person corrected; earlier corrections are in the state too, but a review without one writes no scores."""
    now = outputs["corrections"][-1:] if "scores" in outputs else []
    rows = [
        (f"h{index}", _score(before), _score(after), outputs.get("comments", {}).get(str(index), ""))
        for item in now
        for index, before, after in zip(item["hypotheses"], item["before"], item["after"], strict=True)
    ]
    rows += [("a rule", "-", "-", item["rule"]) for item in now if item["rule"]]
    return StepTable(title, ("by a person", "before", "after", "comment"), rows)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _estimates(title: str, outputs: Outputs) -> StepTable:
    estimate, confidence = outputs["error_estimate"], outputs["detector_confidence"]
    rows = [("detector's confidence", "none" if confidence is None else f"{confidence:.2f}")]
    if estimate is None:
        return StepTable(
            title, ("estimate", "value"), [*rows, ("expected errors", "no model for this detector")]
        )
    bounds = zip(estimate["expected_mm"], estimate["low_mm"], estimate["high_mm"], strict=True)
    rows += [
        (f"h{index}", f"{value:.0f} mm ({low:.0f} to {high:.0f})")
        for index, (value, low, high) in enumerate(bounds)
    ]
    return StepTable(
        title, ("estimate", "value"), [*rows, ("none fits", "yes" if estimate["none_fits"] else "no")]
    )


def _arrangements(title: str, outputs: Outputs) -> StepTable:
    rows = [
        (
            ", ".join(f"h{hypothesis}" for hypothesis in item["hypotheses"]),
            f"{item['score']:.1f}",
            f"{item['mean_score']:.1f}",
            item["comment"],
        )
        for item in outputs["arrangements"]
    ]
    return StepTable(title, ("hypotheses by person", "score", "mean score of the people", "comment"), rows)


def _other(title: str, outputs: Outputs) -> StepTable:
    rows = [(key, json.dumps(value, ensure_ascii=False)[:SHOWN_CHARS]) for key, value in outputs.items()]
    return StepTable(title, ("key", "value"), rows)


_VIEWS: dict[str, Callable[[str, Outputs], StepTable]] = {
    "measure_evidence": _evidence,
    "retrieve_rules": _rules,
    "retrieve_prototypes": _prototypes,
    "score": _scores,
    "choose_evidence": _scores,
    "review_uncertain": _review,
    "review_scores": _review,
    "self_reflect": _reflection,
    "reobserve": _reobserved_evidence,
    "revise": _revision,
    "estimate_errors": _estimates,
    "arrange_people": _arrangements,
}
