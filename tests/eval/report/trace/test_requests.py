"""Which requests of a trace are repairs."""

from __future__ import annotations

from typing import Any

from eval.report.trace.requests import requests_of

ASKED = {"task": "act", "backend": "openai:m r1", "prompt": "9201abc1f14e"}


def results(*calls: dict[str, Any]) -> list[tuple[str, str]]:
    found = requests_of({"outputs": {"replies": [{**ASKED, **call} for call in calls]}})
    return [(request.name, request.result) for request in found]


def test_the_next_step_of_the_agentic_mode_is_no_repair() -> None:
    """Every step is the question before, with the call and its result as one part more."""
    assert results({"parts": ["p"]}, {"parts": ["p", "call"]}) == [("act", "reply")] * 2


def test_a_question_is_repaired_after_a_malformed_reply() -> None:
    assert results(
        {"parts": ["p"]},
        {"parts": ["p", "call"], "malformed": "no object"},
        {"parts": ["p", "call", "what was wrong"]},
        {"parts": ["p", "call", "another call"]},
    ) == [
        ("act", "reply"),
        ("act", "malformed: no object"),
        ("act (repair)", "reply after a repair"),
        ("act", "reply"),
    ]


def test_another_task_repairs_nothing() -> None:
    calls = ({"parts": ["p"], "malformed": "no object"}, {"parts": ["p", "q"], "task": "reflect"})
    assert [name for name, _ in results(*calls)] == ["act", "reflect"]
