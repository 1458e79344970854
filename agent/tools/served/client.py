"""The connection to MCP servers whose tools measure: each server is a process that is started with a command.

A tool of a server is a critique tool if its arguments have a property `case`. The server gets a few harmless variables
of the environment (PATH, HOME and the like), so no key. Of what it writes to stderr the end is kept, which says why it
could not be started. A server that fails, is slow or dies costs its own evidence only.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from agent.tools.served.contract import PREFIX, ToolServerError, case_json, cleaned, read_evidence
from agent.types import Case, CritiqueTool, Evidence, Need
from common.redaction import redact

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from mcp import Client
    from mcp.types import CallToolResult, Tool

__all__ = ["open_tool_servers"]

START_S = 60.0  # a server may import large libraries first
DEADLINE_S = 30.0  # of one measurement
MAX_TOOLS = 32  # of one server
NAME_CHARS = 40
ERROR_CHARS = 160
STDERR_BYTES = 2000  # that are kept
STDERR_WAIT_S = 2.0  # for the end of a server that could not be started


@contextmanager
def open_tool_servers(
    commands: Sequence[str], deadline_s: float = DEADLINE_S
) -> Iterator[list[CritiqueTool]]:
    """The critique tools of all servers; the servers end with the block.

    Raises ValueError, with the command, for one that cannot be started, does not speak MCP or has no critique tool, and
    for two tools of one name.
    """
    if commands and find_spec("mcp") is None:
        raise ValueError("--tool-server needs the MCP SDK: pip install 'meshcritic[mcp]'")
    with ExitStack() as servers:
        tools: list[CritiqueTool] = []
        for command in commands:
            tools += servers.enter_context(_server(command, deadline_s))
        names = [tool.name for tool in tools]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"--tool-server: two tools are called {repeated[0].removeprefix(PREFIX)}")
        yield tools


@contextmanager
def _server(command: str, deadline_s: float) -> Iterator[list[CritiqueTool]]:
    from anyio.from_thread import start_blocking_portal

    words = _words(command)
    with ExitStack() as opened:
        portal = opened.enter_context(start_blocking_portal())
        errors = opened.enter_context(_StderrEnd())
        # The server and its answers are untrusted: whatever goes wrong here is reported with the command.
        try:
            client = portal.wrap_async_context_manager(_client(words, errors.file))
            connected = client.__enter__()
        except Exception as error:
            said = errors.last_line()
            raise ValueError(f"--tool-server {command!r}: {_reason(error)}{said and ': '}{said}") from error
        opened.callback(_close, client)
        listed = _listed(portal, connected, command)
        yield [_ServedTool(tool, portal, connected, deadline_s) for tool in listed]


class _StderrEnd:
    """A file for what a server writes to stderr, of which only the end is kept: a thread reads a pipe."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.file = os.fdopen(writing, "w")
        self._reading, self._end = os.fdopen(reading, "rb", buffering=0), b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> _StderrEnd:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def _read(self) -> None:
        with self._reading:
            while block := self._reading.read(4096):
                self._end = (self._end + block)[-STDERR_BYTES:]

    def last_line(self) -> str:
        """Of a server that has ended."""
        self.file.close()
        self._thread.join(STDERR_WAIT_S)
        lines = self._end.decode(errors="replace").split("\n")
        return redact(cleaned(next(filter(str.strip, reversed(lines)), ""), ERROR_CHARS))


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"--tool-server {command!r}: {error}") from None
    if not words:
        raise ValueError("--tool-server takes a command, and it is empty")
    return words


def _client(words: Sequence[str], errors: TextIO) -> Client:
    from mcp import Client, StdioServerParameters, stdio_client

    parameters = StdioServerParameters(command=words[0], args=list(words[1:]))
    return Client(stdio_client(parameters, errlog=errors), read_timeout_seconds=START_S, cache=None)


def _listed(portal: BlockingPortal, client: Client, command: str) -> list[Tool]:
    try:
        tools = portal.call(client.list_tools).tools
    except Exception as error:
        raise ValueError(f"--tool-server {command!r}: {_reason(error)}") from error
    measuring = [tool for tool in tools if "case" in tool.input_schema.get("properties", {})]
    if not measuring:
        raise ValueError(
            f"--tool-server {command!r} has no critique tool: none of its {len(tools)} tools takes a `case` "
            "(docs/guides/mcp.md)"
        )
    return measuring[:MAX_TOOLS]


def _close(client: Any) -> None:
    # a server that has died already
    with suppress(Exception):
        client.__exit__(None, None, None)


class _ServedTool:
    """A critique tool (`agent.types.CritiqueTool`) that a server answers for."""

    needs: frozenset[Need] = frozenset()

    def __init__(self, tool: Tool, portal: BlockingPortal, client: Client, deadline_s: float) -> None:
        self.name = PREFIX + cleaned(tool.name, NAME_CHARS)
        self._remote_name, self._portal, self._client = tool.name, portal, client
        self._deadline_s = deadline_s

    def measure(self, case: Case) -> Evidence:
        """Raises ToolServerError if the server gives no answer, or one that breaks the contract."""
        result = self._call({"case": case_json(case)})
        texts = [item.text for item in result.content if item.type == "text"]
        if result.is_error:
            said = cleaned(" ".join(texts), ERROR_CHARS) or "no message"
            raise ToolServerError(f"the tool server answered with an error: {said}")
        answer = result.structured_content
        return read_evidence(self.name, "".join(texts) if answer is None else answer, len(case))

    def _call(self, arguments: dict[str, Any]) -> CallToolResult:
        # The connection raises exceptions of several libraries, also in groups.
        try:
            return self._portal.call(self._ask, arguments)
        except TimeoutError:
            raise ToolServerError(f"the tool server gave no answer within {self._deadline_s:g} s") from None
        except (Exception, CancelledError) as error:
            raise ToolServerError(f"the tool server failed: {_reason(error)}") from error

    async def _ask(self, arguments: dict[str, Any]) -> CallToolResult:
        import anyio

        with anyio.fail_after(self._deadline_s):
            return await self._client.call_tool(self._remote_name, arguments)


def _reason(error: BaseException) -> str:
    """The first error of a group, as one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return redact(cleaned(f"{type(error).__name__}: {error}", ERROR_CHARS))
