"""A case of the report as JSON for the page's script: a line of the list, and everything that is shown of the case.

The text of a case (20 bodies: 70 kB of sentences, replies and rules) is compressed to a sixth; the page decompresses
only the case that it shows. Pictures are compressed already.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from agent.prompts.prompt_format import format_quantity
from agent.types import Evidence, GroupCritique
from eval.report.environment import score_css
from eval.report.run.data import ReportCase
from eval.report.trace.requests import Request, shortened

__all__ = ["case_content", "case_summary"]

Json = dict[str, Any]


def case_summary(case: ReportCase) -> Json:
    """What the list, the filter and the chart over all cases need."""
    critique, spearman = case.critique, case.spearman
    known = [score for score in critique.scores if score is not None]
    return {
        "title": case.title,
        "scores": _rounded(critique.scores, 1),
        "errors_mm": None if case.errors_mm is None else _rounded(case.errors_mm, 1),
        "spearman": _round(spearman, 3),
        "excess_mm": _round(case.excess_mm, 1),
        "dispersion": round(critique.rank_dispersion, 2),
        "best": _round(max(known, default=None), 1),
        "flags": _flags(critique),
        "text": " ".join([case.title, *critique.tags, *critique.comments, *critique.reasons]).lower(),
    }


def case_content(case: ReportCase) -> Json:
    """Everything that is shown of one case: pictures, and the text as compressed JSON, all in base64."""
    text = json.dumps(_text(case), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {
        "photo": _base64(case.photo),
        "layers": [_base64(pictures.layer) for pictures in case.pictures],
        "sides": [_base64(pictures.side) for pictures in case.pictures],
        "text": _base64(gzip.compress(text.encode(), mtime=0)),
    }


def _text(case: ReportCase) -> Json:
    critique = case.critique
    return {
        "tags": critique.tags,
        "trace": critique.trace_id,
        "hypotheses": [_hypothesis(case, index) for index in range(len(critique.scores))],
        "evidence": [
            _evidence(item, index, critique.evidence) for index, item in enumerate(critique.evidence)
        ],
        "missing": [{"name": item.tool, "text": item.reason} for item in critique.missing],
        "reasons": critique.reasons,
        "failures": [{"name": item.task or item.kind, "text": item.reason} for item in critique.failures],
        "rules": [
            {
                "text": found.rule.text,
                "terms": _rounded(
                    (found.similarity, found.tag_overlap, found.success_rate, found.bonus, found.score), 2
                ),
                "uses": found.rule.uses,
                "successes": found.rule.successes,
            }
            for found in critique.rules
        ],
        "prototypes": [
            {
                "similarity": round(found.similarity, 3),
                "score": round(found.prototype.score, 1),
                "text": found.prototype.rationale,
            }
            for found in critique.prototypes
        ],
        "revisions": [
            *(
                _revision(item.hypotheses, item.before, item.after, item.reason, item.evidence_used)
                for item in critique.revisions
            ),
            *(
                _revision(item.hypotheses, item.before, item.after, f"corrected by a person {item.rule}", ())
                for item in critique.corrections
            ),
        ],
        "replies": [_reply(request) for request in case.replies],
    }


def _flags(critique: GroupCritique) -> list[str]:
    """By which the list can be filtered."""
    flags = {
        "revised": bool(critique.revisions),
        "corrected": bool(critique.corrections),
        "lost": bool(critique.failures),
        "unscored": any(score is None for score in critique.scores),
        "none-fits": critique.errors is not None and critique.errors.none_fits,
    }
    return [name for name, holds in flags.items() if holds]


def _hypothesis(case: ReportCase, index: int) -> Json:
    critique, estimate = case.critique, case.critique.errors
    return {
        "color": score_css(critique.scores[index]),
        "comment": critique.comments[index],
        "expected_mm": None
        if estimate is None
        else _rounded((estimate.expected_mm[index], estimate.low_mm[index], estimate.high_mm[index]), 0),
    }


def _evidence(item: Evidence, index: int, evidence: Sequence[Evidence]) -> Json:
    """Values as bars need them and as text; a sentence that is the same for the whole group is kept once. A metric
    occurs twice if it was reobserved."""
    sentences = item.sentences[:1] if len(set(item.sentences)) == 1 else item.sentences
    return {
        "metric": item.metric,
        "is_repeated": item.metric in {other.metric for other in evidence[:index]},
        "values": _rounded(item.values, 4),
        "texts": ["-" if value is None else format_quantity(value, item.unit) for value in item.values],
        "sentences": sentences,
    }


def _revision(hypotheses: Any, before: Any, after: Any, reason: str, evidence_used: tuple[str, ...]) -> Json:
    return {
        "hypotheses": hypotheses,
        "before": _rounded(before, 1),
        "after": _rounded(after, 1),
        "text": reason.strip(),
        "evidence_used": evidence_used,
    }


def _reply(request: Request) -> Json:
    about = [request.backend, f"prompt {request.prompt}"]
    about += [] if request.ms is None else [f"{request.ms:,.0f} ms"]
    about += [] if request.tokens == "-" else [f"tokens {request.tokens}"]
    return {
        "name": request.name,
        "result": request.result,
        "fits": request.has_reply,
        "about": " · ".join(about),
        "text": shortened(request.text),
        "thinking": shortened(request.thinking),
    }


def _rounded(values: Any, digits: int) -> list[float | None]:
    return [_round(value, digits) for value in values]


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
