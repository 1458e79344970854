"""Tables of one case from the JSONL trace of a run.

Each node gets one table of its outputs and one of its requests to the backend; the last line sums up the requests.
Replies are not shown; they are in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from agent.prompts.prompt_format import format_quantity
from agent.types import QuestionCounts
from cli.console import foreign

__all__ = ["read_case", "show_case"]

Outputs = Mapping[str, Any]
FIELDS = ("trace", "case", "node", "ms", "outputs")  # of each record (agent/tracing/records.py)


def read_case(run: Path, case: str | None = None) -> list[dict[str, Any]]:
    """The records of the last critique of a case, in order. Default: the last case of the run.

    Raises FileNotFoundError if there is no trace, and ValueError for another file or an unknown case.
    """
    path = run / "trace.jsonl" if run.is_dir() else run
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no trace here")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = [record for line in lines if (record := _parsed(line)) is not None]
    if not records:
        raise ValueError(
            f"{path} has no trace records (JSON objects with {', '.join(FIELDS)}); "
            "`meshcritic trace` takes the folder of a run or its trace.jsonl"
        )
    chosen = [record for record in records if case is None or record["case"] == case]
    if not chosen:
        some = ", ".join(sorted({record["case"] for record in records})[:5])
        raise ValueError(f"{path} has no case {case!r}; it has {some}")
    return [record for record in chosen if record["trace"] == chosen[-1]["trace"]]


def _parsed(line: str) -> dict[str, Any] | None:
    """None for a line that is not a record, such as an incomplete last line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match record:
        case {"trace": str(), "case": str(), "node": str(), "ms": int() | float(), "outputs": dict()}:
            return record
    return None


def show_case(records: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    """The tables of all nodes, in the order in which they ran."""
    yield foreign(f"case {records[0]['case']}, trace {records[0]['trace']}")
    for record in records:
        title, outputs = f"{record['node']} ({record['ms']:.0f} ms)", dict(record["outputs"])
        calls = outputs.pop("replies", [])
        yield _table_of(record["node"], title, outputs)
        if calls:
            yield _calls(calls)
    yield foreign(_summary(records))


def _table_of(node: str, title: str, outputs: Outputs) -> Table:
    """The node's own view; a record that does not fit it, of another program or version, is shown as it is."""
    try:
        return _VIEWS.get(node, _other)(title, outputs)
    except (LookupError, TypeError, ValueError, AttributeError):
        return _other(title, outputs)


def _table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*columns, title=foreign(title), title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*map(foreign, row))
    return table


def _evidence(title: str, outputs: Outputs) -> Table:
    """The best and the worst value of each metric; lower is better."""
    rows = _extremes(outputs["evidence"])
    rows += [(item["tool"], "-", "-", f"missing: {item['reason']}") for item in outputs["missing"]]
    return _table(title, ("metric", "best", "worst", "about the worst"), rows)


def _extra_evidence(title: str, outputs: Outputs) -> Table:
    """The same of the extra evidence. Older traces have it under "bought"."""
    rows = _extremes(outputs.get("extra_evidence", outputs.get("bought", [])))
    rows += [(item["tool"], "-", "-", f"missing: {item['reason']}") for item in outputs.get("missing", [])]
    return _table(title, ("extra evidence", "best", "worst", "about the worst"), rows)


def _extremes(evidence: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for item in evidence:
        known = [(value, index) for index, value in enumerate(item["values"]) if value is not None]
        (low, best), (high, worst) = min(known), max(known)
        best_worst = (_named(best, low, item["unit"]), _named(worst, high, item["unit"]))
        rows.append((item["metric"], *best_worst, item["sentences"][worst]))
    return rows


def _named(index: int, value: float, unit: str) -> str:
    return f"h{index}: {format_quantity(value, unit)}"


def _rules(title: str, outputs: Outputs) -> Table:
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
    return _table(f"{title}, tags: {tags}", columns, rows)


def _prototypes(title: str, outputs: Outputs) -> Table:
    rows = [
        (f"{item['similarity']:.3f}", f"{item['score']:.0f}", item["rationale"])
        for item in outputs["prototypes"]
    ]
    return _table(title, ("similarity", "score", "rationale"), rows)


def _scores(title: str, outputs: Outputs) -> Table:
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
    return _table(title, ("hypothesis", "score", "comment"), rows)


def _reflection(title: str, outputs: Outputs) -> Table:
    uncertain = [(f"h{index}", str(reason)) for index, reason in outputs["doubts"].items()]
    evidence = outputs.get("score_evidence", outputs.get("second_look", []))  # "second_look" in older traces
    measured = [
        (f"measured again: {metric}", f"best {best}, worst {worst}: {sentence}")
        for metric, best, worst, sentence in _extremes(evidence)
    ]
    return _table(title, ("uncertain", "reason"), [*(uncertain or [_no_doubt(outputs)]), *measured])


def _no_doubt(outputs: Outputs) -> tuple[str, str]:
    """Why no score is revised: the question was not asked, got no answer, or found nothing."""
    if outputs.get("questions", {}).get("asked") == 0:  # older traces do not say
        return ("not asked", "some hypotheses have no score")
    if lost := _lost(outputs):
        return ("unknown", lost)
    return ("none", "no score is revised")


def _lost(outputs: Outputs) -> str:
    return "; ".join(f"not answered ({failure['reason']})" for failure in outputs.get("failures", []))


def _revision(title: str, outputs: Outputs) -> Table:
    rows = [
        (f"h{index}", _score(before), _score(after), item["reason"], ", ".join(item.get("looked_at", [])))
        for item in outputs.get("revisions", [])
        for index, before, after in zip(item["hypotheses"], item["before"], item["after"], strict=True)
    ]
    return _table(title, ("hypothesis", "before", "after", "reason", "evidence"), rows)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _calls(calls: Sequence[Outputs]) -> Table:
    """One row per request. A repair repeats a question and adds what was wrong with the reply."""
    parts = [list(call["parts"]) for call in calls]
    repairs = [place > 0 and parts[place - 1] == parts[place][:-1] for place in range(len(calls))]
    rows = [
        (
            f"{call['task']} (repair)" if repairs[place] else call["task"],
            call["backend"],
            call["prompt"],
            f"{call['ms']:,.0f}" if "ms" in call else "-",
            _tokens(*call.get("tokens", (0, 0))),
            str(call.get("retries", "-")),
            _result(call, repairs[place]),
        )
        for place, call in enumerate(calls)
    ]
    return _table("", ("request", "backend", "prompt", "ms", "tokens", "retries", "result"), rows)


def _result(call: Outputs, is_repair: bool) -> str:
    """How the request ended."""
    if "error" in call:
        return call["error"]
    if "malformed" in call:
        return f"{'repaired and still malformed' if is_repair else 'malformed'}: {call['malformed']}"
    result = "cached reply" if call["cached"] else "reply"
    result = f"{result} after a repair" if is_repair else result
    return f"{result}, {call['warning']}" if "warning" in call else result


def _tokens(tokens_in: int, tokens_out: int) -> str:
    return f"{tokens_in:,} in, {tokens_out:,} out" if tokens_in or tokens_out else "-"


def _summary(records: Sequence[Outputs]) -> str:
    """One line about all requests of the case."""
    calls = [call for record in records for call in record["outputs"].get("replies", [])]
    tokens = [sum(call.get("tokens", (0, 0))[side] for call in calls) for side in (0, 1)]
    retries, failed = sum(call.get("retries", 0) for call in calls), sum("error" in call for call in calls)
    counts = _counts(records)
    parts = [
        f"{sum(record['ms'] for record in records):,.0f} ms",
        f"{len(calls)} request{'s' * (len(calls) != 1)}",
        *([_tokens(tokens[0], tokens[1]).replace(" in", " tokens in")] if any(tokens) else []),
        *([f"{retries} retries"] if retries else []),
        *([f"{failed} failed"] if failed else []),
        *([f"{counts.answered} of {counts.asked} questions answered"] if counts.lost else []),
    ]
    return "; ".join(parts)


def _estimates(title: str, outputs: Outputs) -> Table:
    estimate, confidence = outputs["error_estimate"], outputs["detector_confidence"]
    rows = [("detector's confidence", "none" if confidence is None else f"{confidence:.2f}")]
    if estimate is None:
        return _table(
            title, ("estimate", "value"), [*rows, ("expected errors", "no model for this detector")]
        )
    bounds = zip(estimate["expected_mm"], estimate["low_mm"], estimate["high_mm"], strict=True)
    rows += [
        (f"h{index}", f"{value:.0f} mm ({low:.0f} to {high:.0f})")
        for index, (value, low, high) in enumerate(bounds)
    ]
    return _table(
        title, ("estimate", "value"), [*rows, ("none fits", "yes" if estimate["none_fits"] else "no")]
    )


def _counts(records: Sequence[Outputs]) -> QuestionCounts:
    found = (record["outputs"]["questions"] for record in records if "questions" in record["outputs"])
    return sum(map(QuestionCounts.from_json, found), QuestionCounts())


def _other(title: str, outputs: Outputs) -> Table:
    rows = [(key, json.dumps(value, ensure_ascii=False)[:300]) for key, value in outputs.items()]
    return _table(title, ("key", "value"), rows)


_VIEWS: dict[str, Callable[[str, Outputs], Table]] = {
    "measure_evidence": _evidence,
    "retrieve_rules": _rules,
    "retrieve_prototypes": _prototypes,
    "score": _scores,
    "self_reflect": _reflection,
    "look_again": _extra_evidence,
    "revise": _revision,
    "estimate_errors": _estimates,
}
