"""The agentic mode: under every label order the model calls for the evidence that it wants, and then scores.

The whole exchange of a label order is one growing question: its instructions and pictures, then every call with its
result. So each step is asked, repaired, cached, recorded and counted as any question is. The number of calls is limited
(`max_tool_calls`); after the last one the model is only offered to score. A call that cannot be answered counts, and
its result is the sentence that says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext
from agent.events import Emit
from agent.evidence_calls.calls import CallResult
from agent.evidence_calls.dispatcher import CallDispatcher
from agent.nodes.scoring import scores_update
from agent.pictures.panels import hypothesis_parts
from agent.prompts.answers import action_model
from agent.prompts.question import Brief, question, rule_json
from agent.scoring.ask import Answer, ask
from agent.scoring.scoring import score_group
from agent.state import CritiqueState
from agent.types import QuestionCounts
from agent.vlm.protocol import CallPart, DataPart, ImagePart, Part, VLMBackend
from common.redaction import redact

__all__ = ["check_tool_calls", "choose_evidence"]

Json = dict[str, Any]
NO_QUESTIONS = QuestionCounts()


def check_tool_calls(backend: VLMBackend) -> None:
    """Raises ValueError for a backend that cannot call for evidence."""
    if backend.capabilities.tool_calls == "none":
        raise ValueError(
            f"the mode agentic needs a language model, and the backend {backend.name} cannot call for evidence; choose "
            "another backend or the mode fixed"
        )


def choose_evidence(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Let the model examine and score the group, under several label orders."""
    context, resources = runtime.context, runtime.context.resources
    check_tool_calls(resources.backend)
    dispatcher = CallDispatcher(resources, context.settings)
    brief = Brief((), (), (), (), views=[resources.views[key] for key in state["views"]])
    examined: list[_Examination] = []

    def examine(labels: Mapping[str, int], seed: int) -> Answer[Any]:
        examination = _Examination(context, dispatcher, brief, labels, seed, runtime.stream_writer)
        examined.append(examination)
        return examination.run()

    count = len(resources.hypotheses)
    result = score_group(
        resources.backend, brief, count, context.settings, resources.sample.id, ask_labels=examine
    )
    examined.sort(key=lambda item: (item.seed, list(item.labels.values())))  # threads do not change the state
    return {**_found(state, context, examined), **scores_update(result)}


@dataclass(frozen=True)
class _Scores(Answer[Any]):
    """The answer of a whole examination, which took several questions."""

    asked: QuestionCounts = NO_QUESTIONS

    @property
    def counts(self) -> QuestionCounts:
        return self.asked


@dataclass
class _Examination:
    """The examination of a group under one label order."""

    context: CritiqueContext
    dispatcher: CallDispatcher
    brief: Brief
    labels: Mapping[str, int]
    seed: int
    emit: Emit
    results: list[CallResult] = field(default_factory=list)
    records: list[Json] = field(default_factory=list)  # of the calls, for the trace
    parts: list[Part] = field(default_factory=list)  # the question so far
    calls_left: int = 0

    def run(self) -> _Scores:
        """Ask until there are scores or a failure. Each step without scores has a call, and calls are limited."""
        backend, settings = self.context.resources.backend, self.context.settings
        self.calls_left, self.parts = settings.max_tool_calls, self._opening()
        replies: tuple[Json, ...] = ()
        counts = NO_QUESTIONS
        while True:
            model = action_model(list(self.labels), self.dispatcher.specs if self.calls_left else ())
            answer: Answer[Any] = ask(backend, "act", self.parts, model, self.seed, self.emit)
            replies, counts = (*replies, *answer.replies), counts + answer.counts
            if answer.value is None:
                return _Scores(None, replies, answer.failure, counts)
            if answer.value.scores is not None:
                return _Scores(answer.value.scores, replies, None, counts)
            self._make_calls(answer.value.calls)

    def _opening(self) -> list[Part]:
        resources, settings = self.context.resources, self.context.settings
        views = {label: self.brief.views[j] for label, j in self.labels.items()} if self.brief.views else {}
        return [
            *question("act", resources.photo),
            *hypothesis_parts(views, settings.pictures),
            DataPart("labels", list(self.labels)),
            DataPart("calls_left", self.calls_left),
        ]

    def _make_calls(self, requests: Sequence[Any]) -> None:
        """Append the calls of one answer with their results, then the pictures."""
        step = 1 + max((record["step"] for record in self.records), default=0)
        texts, pictures = [], []
        for request in requests:
            start = time.perf_counter()
            record = {"step": step, "call": request.name[:60], "arguments": request.arguments}
            try:
                result = self._answer(request, len(pictures))
                record["result"] = result.data
                self.results.append(result)
                texts.append(result.text)
                pictures += [result.picture] if result.picture else []
            except ValueError as error:
                record["error"] = redact(str(error))
                texts.append(record["error"])
            self.records.append({**record, "ms": round((time.perf_counter() - start) * 1e3, 3)})
        texts[-1] = f"{texts[-1]}\ncalls_left: {self.calls_left}"
        self.parts += [
            CallPart(step, request.name[:60], json.dumps(request.arguments), text)
            for request, text in zip(requests, texts, strict=True)
        ]
        self.parts += pictures

    def _answer(self, request: Any, new_pictures: int) -> CallResult:
        """Raises ValueError, with one sentence, for a call that is wrong or beyond a limit."""
        if not self.calls_left:
            raise ValueError(
                f"not answered: the limit of {self.context.settings.max_tool_calls} calls is reached"
            )
        self.calls_left -= 1
        result = self.dispatcher.answer(request.name, request.arguments, self.labels)
        limit = self.context.resources.backend.capabilities.max_images
        shown = sum(isinstance(part, ImagePart) for part in self.parts) + new_pictures
        if result.picture and limit is not None and shown >= limit:
            raise ValueError(f"not shown: this question has {shown} pictures, and the model takes {limit}")
        return result


def _found(
    state: CritiqueState, context: CritiqueContext, examined: Sequence[_Examination]
) -> dict[str, Any]:
    """What the calls of all label orders found: evidence in the order of the tools, and rules, each once."""
    resources = context.resources
    results = [result for examination in examined for result in examination.results]
    evidence = {item.evidence.metric: item.evidence for item in results if item.evidence}
    missing = {item.missing.tool: item.missing for item in results if item.missing}
    order = {tool.name: place for place, tool in enumerate(resources.tools)}
    rules = {found.rule.rule_id: found for item in results for found in item.rules}
    resources.retrieved_rules = tuple(rules.values())
    return {
        "evidence": [
            item.to_json() for item in sorted(evidence.values(), key=lambda item: order.get(item.tool, -1))
        ],
        "missing": [
            *state["missing"],
            *map(asdict, sorted(missing.values(), key=lambda item: order.get(item.tool, -1))),
        ],
        "tags": [],
        "rules": [rule_json(found) for found in rules.values()],
        "prototypes": [],
        "evidence_calls": [
            {"seed": item.seed, "labels": dict(item.labels), "calls": item.records} for item in examined
        ],
    }
