"""What one call is: its name, its description, the model of its arguments, and the function that answers it.

The agentic critique (`agent/nodes/choose_evidence.py`) and the MCP server (`cli/mcp_server`) offer the same calls. Each
call works on one kind of source: a case (`agent.evidence_calls.case_calls`), a memory
(`agent.evidence_calls.memory_calls`), or the service of the MCP server, which finds both by path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.types import Evidence, Missing
from agent.vlm.protocol import CallSpec, ImagePart
from memory.rule_memory import RetrievedRule

__all__ = ["Arguments", "CallResult", "EvidenceCall"]

Json = dict[str, Any]
S = TypeVar("S")


class Arguments(BaseModel):
    """The arguments of a call. All are required, because the strict mode of some servers knows no optional ones."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


@dataclass(frozen=True)
class CallResult:
    """The answer to a call: as JSON, as text for a language model, and what else the call found."""

    data: Json
    text: str
    picture: ImagePart | None = None
    evidence: Evidence | None = None
    missing: Missing | None = None  # the measurement could not be taken
    rules: tuple[RetrievedRule, ...] = ()


@dataclass(frozen=True)
class EvidenceCall(Generic[S]):
    """One kind of evidence. `answer` gets the source and the validated arguments, and raises ValueError with one
    sentence if it cannot answer."""

    name: str
    description: str
    arguments: type[BaseModel]
    answer: Callable[[S, Any], CallResult]

    @property
    def spec(self) -> CallSpec:
        """The call as a language model or a client sees it."""
        schema = self.arguments.model_json_schema()
        # title and description of the whole are the class's, which says nothing to a model
        own = {key: value for key, value in schema.items() if key not in ("title", "description")}
        return CallSpec(self.name, self.description, own)

    def run(self, source: S, arguments: object) -> CallResult:
        """Raises ValueError, with one sentence that names the arguments at fault, if they do not fit."""
        try:
            valid = self.arguments.model_validate(arguments)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:4]
            raise ValueError(f"{self.name}: {'; '.join(map(_fault, faults))}") from None
        return self.answer(source, valid)


def _fault(fault: Any) -> str:
    place = ".".join(map(str, fault["loc"])) or "the arguments"
    return f"{place}: {fault['msg']}"
