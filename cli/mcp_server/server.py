"""The Model Context Protocol over stdin and stdout, with the official SDK.

While it serves, the SDK points the process' stdout at stderr, so that nothing but the protocol reaches the client. A
call that cannot be answered is a tool error of one sentence, which a language model can read and act on. Calls are
answered one at a time, in a thread, so that the connection stays responsive.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from agent.evidence_calls.calls import CallResult
from cli.mcp_server.service import CritiqueService
from cli.mcp_server.service_calls import ServiceCall
from common.redaction import reason_of, redact

__all__ = ["serve"]

INSTRUCTIONS = (
    "Judges 3D human body hypotheses (SMPL) of a person in a photograph. Name the files by path. Start with critique "
    "for scores, or measure, render and zoom for single pieces of evidence. Hypotheses are numbered from 0."
)


def serve(service: CritiqueService, calls: Sequence[ServiceCall]) -> None:
    """Serve until the client closes the connection."""
    anyio.run(_serve, _server(service, calls))


async def _serve(server: Server) -> None:
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def _server(service: CritiqueService, calls: Sequence[ServiceCall]) -> Server:
    by_name = {call.name: call for call in calls}
    one_at_a_time = anyio.CapacityLimiter(1)

    async def list_tools(_: object, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(call) for call in calls])

    async def call_tool(_: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        call = by_name.get(params.name)
        if call is None:
            return _refusal(f"there is no tool {params.name[:60]!r}; there are {', '.join(by_name)}")
        return await anyio.to_thread.run_sync(
            partial(_answer, service, call, params.arguments or {}), limiter=one_at_a_time
        )

    return Server(
        "meshcritic",
        version=version("meshcritic"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _tool(call: ServiceCall) -> types.Tool:
    spec = call.spec
    read_only = types.ToolAnnotations(read_only_hint=True)
    return types.Tool(
        name=spec.name, description=spec.description, input_schema=spec.schema, annotations=read_only
    )


def _answer(service: CritiqueService, call: ServiceCall, arguments: object) -> types.CallToolResult:
    try:
        return _result(call.run(service, arguments))
    except (ValueError, OSError) as error:
        return _refusal(redact(" ".join(str(error).split())))
    # Models and plug-ins run here: whatever they raise, the connection stays open.
    except Exception as error:  # noqa: BLE001
        return _refusal(f"{call.name} failed: {reason_of(error)}")


def _result(result: CallResult) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=result.text)]
    if result.picture is not None:
        encoded = base64.b64encode(result.picture.png).decode()
        content.append(types.ImageContent(data=encoded, mime_type="image/png"))
    return types.CallToolResult(
        content=content, structured_content=result.data, is_error=result.missing is not None
    )


def _refusal(sentence: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=sentence)], is_error=True)
