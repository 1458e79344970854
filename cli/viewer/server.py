"""viser's server on 127.0.0.1, behind the checks of `cli.loopback`.

viser answers HTTP and WebSocket requests on one port, to everybody who reaches it. It starts both with one call of
`websockets.asyncio.server.serve`, which is replaced while viser starts (`_guarded`): the port is bound beforehand, and
`process_request`, which sees every request before anything else does, refuses those without the token, of other names
and of other pages. A WebSocket must name its page (Origin), as all browsers do. A version of viser that starts in
another way is refused rather than served without the checks.
"""

from __future__ import annotations

import contextlib
import http
import io
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from cli.loopback import HEADERS, HOST, LoopbackAccess, Refused

__all__ = ["GuardedServer"]

ProcessRequest = Callable[[ServerConnection, Request], Response | None]


class GuardedServer(viser.ViserServer):
    """A viser server for whoever has its address, which is `access.url`.

    port: 0 for a free one. Raises OSError if the port is taken, and RuntimeError for a version of viser that cannot be
    guarded.
    """

    def __init__(self, port: int, label: str) -> None:
        listening = socket.create_server((HOST, port))
        self.access = LoopbackAccess(listening.getsockname()[1])
        try:
            with _guarded(listening, self.access), contextlib.redirect_stdout(io.StringIO()):
                super().__init__(HOST, self.access.port, label, verbose=False)
        except BaseException:
            listening.close()
            raise

    def request_share_url(self, verbose: bool = True) -> str | None:
        """None: viser's tunnel to a public address is not offered, whatever a page asks for."""
        return None

    def stop(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


@contextlib.contextmanager
def _guarded(listening: socket.socket, access: LoopbackAccess) -> Iterator[None]:
    """A block in which `websockets.asyncio.server.serve` serves the bound socket and checks every request."""
    serve, calls = websockets.asyncio.server.serve, []

    def guarded_serve(
        handler: Any, host: str, port: int, *, process_request: ProcessRequest, **settings: Any
    ) -> Any:
        calls.append(port)
        return serve(handler, sock=listening, process_request=_checked(process_request, access), **settings)

    websockets.asyncio.server.serve = guarded_serve  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve
    if len(calls) != 1:
        raise RuntimeError(f"viser {viser.__version__} starts its server in another way; use viser 1.1")


def _checked(answer: ProcessRequest, access: LoopbackAccess) -> ProcessRequest:
    """viser's answers to the requests that are allowed, without the token in their paths."""
    policy = _policy(access)

    def check_request(connection: ServerConnection, request: Request) -> Response | None:
        try:
            request.path = "/" + _path_of(request, access)
        except Refused as refused:
            return connection.respond(http.HTTPStatus(refused.status), f"{refused.reason}\n")
        response = answer(connection, request)
        if response is not None:
            for name, value in {**HEADERS, "Content-Security-Policy": policy}.items():
                response.headers[name] = value
        return response

    return check_request


def _path_of(request: Request, access: LoopbackAccess) -> str:
    host, origin, upgrade = (
        _only(request.headers.get_all(name), name) for name in ("Host", "Origin", "Upgrade")
    )
    if upgrade is not None and origin is None:
        raise Refused(403, "a connection comes from the page of this server only")
    # the page opens its connection at its own address without the last slash
    path = request.path if upgrade is None else request.path.partition("?")[0].rstrip("/") + "/"
    return access.path_after_token(path, host, origin)


def _only(values: Sequence[str], name: str) -> str | None:
    """The value of a header. Raises Refused if it is given twice."""
    if len(values) > 1:
        raise Refused(400, f"a request has one header {name}")
    return values[0] if values else None


def _policy(access: LoopbackAccess) -> str:
    """The page is one file with its scripts, styles, fonts and workers inside; it may load nothing from elsewhere."""
    own = f"'self' data: blob: {access.origin.replace('http', 'ws', 1)}"
    return (
        "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; style-src 'unsafe-inline'; "
        f"worker-src blob: data:; img-src data: blob:; font-src data:; connect-src {own}; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
