"""What a model that reads text is told of a group: a table of measurements, words for what stands out, rules in a line.

    label|reprojection_percent_of_box (%)|silhouette_mismatch|...
    A|1.22|0.554|...
    B|2.87|0.583|...
    the same for all: self_penetration_mm 0
    what stands out:
    B: Right hand lands 11 % of the box away from the detected right knuckle joint (right forearm).

The same as JSON, with a sentence and the parts at fault for every measurement of every hypothesis, takes five times
the tokens (`python -m benchmarks.scale` counts). Left out: digits beyond the third; sentences where a hypothesis is no
worse than its group; how a rule's retrieval score came about; a prototype's measurements, but for the names of those
that agreed best with the truth. The embedded critic and the trace have all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

__all__ = ["format_figures", "format_metrics", "format_prototypes", "format_rules"]

Json = Mapping[str, Any]

STANDS_OUT = 1.0  # standard deviations of the group above its mean
MOST_SENTENCES = 2  # about one hypothesis, the farthest from the group first
MOST_NAMES = 3  # parts at fault in one measurement; measurements that agreed with the truth in one case


def format_metrics(metrics: Json) -> str:
    """`agent.prompts.question.labelled_metrics` as a table, and what stands out below it."""
    if not metrics:
        return "nothing was measured"
    labels = list(next(iter(metrics.values()))["values"])
    columns = {_headed(name, item["unit"]): _column(item) for name, item in metrics.items()}
    alike = {head: column[0] for head, column in columns.items() if len(set(column)) == 1}
    told = {head: column for head, column in columns.items() if head not in alike}
    lines = ["|".join(["label", *told])]
    lines += ["|".join([label, *(column[j] for column in told.values())]) for j, label in enumerate(labels)]
    if alike:
        lines.append(f"the same for all: {', '.join(f'{head} {figure}' for head, figure in alike.items())}")
    away = {name: _deviations_above(item) for name, item in metrics.items()}
    outstanding = [f"{label}: {said}" for label in labels if (said := _what_stands_out(metrics, away, label))]
    return "\n".join([*lines, *(["what stands out:"] if outstanding else []), *outstanding])


def format_rules(rules: Sequence[Json]) -> str:
    """One a line, the most relevant first."""
    return "\n".join(f"- {rule['text']} [{'; '.join(_terms(rule)) or 'no test'}]" for rule in rules) or "none"


def format_prototypes(prototypes: Sequence[Json]) -> str:
    """One a line, the most similar first."""
    return "\n".join(map(_format_prototype, prototypes)) or "none"


def format_figures(by_label: Mapping[str, float | int | None]) -> str:
    return ", ".join(f"{label} {_figure(value)}" for label, value in by_label.items())


def _headed(name: str, unit: str) -> str:
    """Most metrics carry their unit in their name."""
    return name if unit == "1" or unit in name else f"{name} ({unit})"


def _column(metric: Json) -> list[str]:
    return [_figure(value) for value in metric["values"].values()]


def _figure(value: float | int | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _what_stands_out(metrics: Json, away: Mapping[str, Mapping[str, float]], label: str) -> str:
    """What the tools say of one hypothesis where it is farthest from its group."""
    worst = sorted((name for name in away if away[name][label] > STANDS_OUT), key=lambda n: -away[n][label])
    said = [_with_parts(metrics[name]["sentences"][label], metrics[name]["parts"][label]) for name in worst]
    return " ".join([sentence for sentence in said if sentence][:MOST_SENTENCES])


def _deviations_above(metric: Json) -> dict[str, float]:
    """How far each hypothesis lies above the group's mean, in the group's standard deviations; 0 if unmeasured."""
    known = {label: value for label, value in metric["values"].items() if value is not None}
    mean = fmean(known.values()) if known else 0.0
    spread = math.sqrt(fmean((value - mean) ** 2 for value in known.values())) if known else 0.0
    return {label: (known.get(label, mean) - mean) / (spread or 1.0) for label in metric["values"]}


def _with_parts(sentence: str, parts: Sequence[str]) -> str:
    """The sentence, and of the parts at fault those that it does not name."""
    unnamed = [part for part in parts if part.lower() not in sentence.lower()][:MOST_NAMES]
    return f"{sentence.rstrip('.')} ({', '.join(unnamed)}).".strip() if unnamed else sentence


def _terms(rule: Json) -> list[str]:
    terms = [", ".join(rule["tags"])] if rule["tags"] else []
    if "metric" in rule:
        terms.append(
            f"{rule['metric']} {rule['comparison']} {rule['threshold']:g}, weight {rule['weight']:g}"
        )
    if rule.get("uses"):  # a rule on trial has none
        terms.append(f"held in {rule['successes']} of {rule['uses']} uses")
    return terms


def _format_prototype(prototype: Json) -> str:
    best = sorted(prototype["weights"].items(), key=lambda item: -item[1])[:MOST_NAMES]
    terms = [f"similarity {prototype['similarity']:.2f}", f"score {prototype['score']:.0f}"]
    terms += [", ".join(prototype["tags"])] if prototype["tags"] else []
    terms += [f"the truth agreed with {', '.join(f'{name} {rho:.2f}' for name, rho in best)}"] if best else []
    return f"- {prototype['rationale']} [{'; '.join(terms)}]"
