"""Formats measurements, rules and prototypes for models that read text.

    label|reprojection_percent_of_box (%)|silhouette_mismatch|...
    A|1.22|0.554|...
    B|2.87|0.583|...
    equal for all labels: self_penetration_mm 0
    much worse than the group:
    B: Right hand lands 11 % of the box away from the detected right hand (right forearm).

The same data as JSON, with a sentence and the affected body parts for every measurement of every hypothesis, takes five
times as many tokens (counted by `python -m benchmarks.critic.scale`). Left out: digits after the third; sentences on
hypotheses that are not worse than the group; the terms of a rule's retrieval score; the measurements of a prototype,
except the names of those with the highest agreement. The embedded critic and the trace get all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

__all__ = ["format_metrics", "format_numbers", "format_prototypes", "format_quantity", "format_rules"]

Json = Mapping[str, Any]

MUCH_WORSE = 1.0  # standard deviations of the group above its mean
MAX_SENTENCES = 2  # per hypothesis, the largest deviation first
MAX_SENTENCE_CHARS = 400
MAX_NAMES = 3  # body parts per measurement; measurements per prototype


def format_metrics(metrics: Json) -> str:
    """`agent.prompts.question.labelled_metrics` as a table, then sentences about much worse hypotheses."""
    if not metrics:
        return "no measurements"
    labels = list(next(iter(metrics.values()))["values"])
    columns = {_header(name, item["unit"]): _column(item) for name, item in metrics.items()}
    equal = {header: column[0] for header, column in columns.items() if len(set(column)) == 1}
    table = {header: column for header, column in columns.items() if header not in equal}
    lines = ["|".join(["label", *table])]
    lines += ["|".join([label, *(column[j] for column in table.values())]) for j, label in enumerate(labels)]
    if equal:
        lines.append(
            f"equal for all labels: {', '.join(f'{header} {text}' for header, text in equal.items())}"
        )
    deviations = {name: _deviations_above(item) for name, item in metrics.items()}
    faults = [
        f"{label}: {text}" for label in labels if (text := _worst_sentences(metrics, deviations, label))
    ]
    return "\n".join([*lines, *(["much worse than the group:"] if faults else []), *faults])


def format_rules(rules: Sequence[Json]) -> str:
    """One rule per line, the most relevant first."""
    return (
        "\n".join(f"- {_one_line(rule['text'])} [{'; '.join(_terms(rule)) or 'no test'}]" for rule in rules)
        or "none"
    )


def format_prototypes(prototypes: Sequence[Json]) -> str:
    """One prototype per line, the most similar first."""
    return "\n".join(map(_format_prototype, prototypes)) or "none"


def format_numbers(by_label: Mapping[str, float | int | None]) -> str:
    return ", ".join(f"{label} {_number(value)}" for label, value in by_label.items())


def format_quantity(value: float, unit: str) -> str:
    """Three significant digits and the unit; a share ("1") has none."""
    return _number(value) if unit == "1" else f"{_number(value)} {unit}"


def _header(name: str, unit: str) -> str:
    """Name and unit; the names of most metrics contain the unit."""
    return name if unit == "1" or unit in name else f"{name} ({unit})"


def _column(metric: Json) -> list[str]:
    return [_number(value) for value in metric["values"].values()]


def _number(value: float | int | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _worst_sentences(metrics: Json, deviations: Mapping[str, Mapping[str, float]], label: str) -> str:
    """The tools' sentences about the metrics in which a hypothesis is much worse than its group."""
    above = {name: by_label[label] for name, by_label in deviations.items() if by_label[label] > MUCH_WORSE}
    worst = sorted(above, key=lambda name: -above[name])
    texts = [
        _one_line(_with_parts(metrics[name]["sentences"][label], metrics[name]["parts"][label]))
        for name in worst
    ]
    return " ".join([text for text in texts if text][:MAX_SENTENCES])


def _deviations_above(metric: Json) -> dict[str, float]:
    """Deviation of each hypothesis from the group's mean, in standard deviations of the group; 0 if not measured."""
    known = {label: value for label, value in metric["values"].items() if value is not None}
    mean = fmean(known.values()) if known else 0.0
    spread = math.sqrt(fmean((value - mean) ** 2 for value in known.values())) if known else 0.0
    return {label: (known.get(label, mean) - mean) / (spread or 1.0) for label in metric["values"]}


def _with_parts(sentence: str, parts: Sequence[str]) -> str:
    """The sentence, followed by the affected body parts that it does not name."""
    unnamed = [part for part in parts if part.lower() not in sentence.lower()][:MAX_NAMES]
    return f"{sentence.rstrip('.')} ({', '.join(unnamed)}).".strip() if unnamed else sentence


def _one_line(text: str) -> str:
    """A sentence of a tool or a memory, which cannot begin a line of its own."""
    return " ".join(text.split())[:MAX_SENTENCE_CHARS]


def _terms(rule: Json) -> list[str]:
    terms = [", ".join(rule["tags"])] if rule["tags"] else []
    if "metric" in rule:
        terms.append(
            f"{rule['metric']} {rule['comparison']} {rule['threshold']:g}, weight {rule['weight']:g}"
        )
    if rule.get("uses"):  # a rule on trial has none
        terms.append(f"successful in {rule['successes']} of {rule['uses']} uses")
    return terms


def _format_prototype(prototype: Json) -> str:
    best = sorted(prototype["weights"].items(), key=lambda item: -item[1])[:MAX_NAMES]
    terms = [f"similarity {prototype['similarity']:.2f}", f"score {prototype['score']:.0f}"]
    terms += [", ".join(prototype["tags"])] if prototype["tags"] else []
    if best:
        terms.append(
            f"correlation with the true error: {', '.join(f'{name} {rho:.2f}' for name, rho in best)}"
        )
    return f"- {_one_line(prototype['rationale'])} [{'; '.join(terms)}]"
