"""The tools of the MCP server: the evidence calls, with the files that they are about, and critique."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model

from agent.evidence_calls.calls import Arguments, CallResult, EvidenceCall
from agent.evidence_calls.case_calls import CaseSource, case_calls
from agent.evidence_calls.memory_calls import LIST_PROTOTYPES, RECALL_RULES, MemorySource
from agent.tools import load_tools
from cli.mcp_server.service import CaseReference, CritiqueService
from cli.photos.answers import critique_answer

__all__ = ["ServiceCall", "service_calls"]

MAX_PATH_CHARS = 1000
PathText = Annotated[str, Field(max_length=MAX_PATH_CHARS)]


ServiceCall = EvidenceCall[CritiqueService]


class CaseArguments(Arguments):
    """The group that a tool is about."""

    photo: Annotated[PathText, Field(description="Path of the photograph.")]
    hypotheses: Annotated[PathText, Field(description="Path of the hypotheses file, .npz.")]
    person: Annotated[int, Field(ge=0, description="Number of the person in the hypotheses file.")] = 0

    @property
    def reference(self) -> CaseReference:
        return CaseReference(self.photo, self.hypotheses, self.person)


class MemoryArguments(Arguments):
    """The memory that a tool reads."""

    memory: Annotated[
        PathText, Field(description="Folder of the critic's memory. Default: that of the server.")
    ] = ""


class CritiqueArguments(MemoryArguments, CaseArguments):
    """Of the tool critique."""


def service_calls() -> list[ServiceCall]:
    """The tools of the server, in the order in which clients list them."""
    return [
        *(_about_case(call) for call in case_calls(load_tools(), pictures=True)),
        *(_about_memory(call) for call in (RECALL_RULES, LIST_PROTOTYPES)),
        EvidenceCall(
            "critique",
            "Score every hypothesis of a group from 0 (worst) to 100 (best), with a comment per hypothesis.",
            CritiqueArguments,
            _critique,
        ),
    ]


def _about_case(call: EvidenceCall[CaseSource]) -> ServiceCall:
    def answer(service: CritiqueService, arguments: Any) -> CallResult:
        case, agent = service.case(arguments.reference), service.any_agent()
        labels = {str(index): index for index in range(len(case))}
        return call.answer(CaseSource(case, agent.tools, agent.renderer, labels), arguments)

    return EvidenceCall(call.name, call.description, _with(CaseArguments, call), answer)


def _about_memory(call: EvidenceCall[MemorySource]) -> ServiceCall:
    def answer(service: CritiqueService, arguments: Any) -> CallResult:
        agent = service.agent(arguments.memory)
        count = agent.settings.rules_per_case
        return call.answer(MemorySource(agent.rules, agent.prototypes, agent.frozen, count), arguments)

    return EvidenceCall(call.name, call.description, _with(MemoryArguments, call), answer)


def _with(reference: type[Arguments], call: EvidenceCall[Any]) -> type[BaseModel]:
    return create_model(call.arguments.__name__, __base__=(call.arguments, reference))


def _critique(service: CritiqueService, arguments: CritiqueArguments) -> CallResult:
    critique = service.critique(arguments.reference, arguments.memory)
    data = critique_answer(critique, service.policy.detector.name)
    lines = [f"{j}: {score} {comment}" for j, (score, comment) in enumerate(_scored(data))]
    return CallResult(data, "\n".join([*lines, *data["verdict"]]))


def _scored(data: dict[str, Any]) -> list[tuple[str, str]]:
    reasons = iter(data["reasons"])
    pairs = zip(data["scores"], data["comments"], strict=True)
    return [("-", next(reasons)) if score is None else (f"{score:.1f}", text) for score, text in pairs]
