"""viser's server answers its own page only."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
import viser
import websockets.asyncio.server
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from cli.viewer.server import GuardedServer

PROTOCOL = Subprotocol(f"viser-v{viser.__version__}")


@pytest.fixture(scope="module")
def server() -> Iterator[GuardedServer]:
    server = GuardedServer(0, "test")
    yield server
    server.stop()


def get(server: GuardedServer, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.access.port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def status_of_socket(server: GuardedServer, path: str, origin: str | None, **headers: str) -> int:
    """101 if the server lets a WebSocket connect."""
    url = f"ws://127.0.0.1:{server.access.port}{path}"
    try:
        with connect(
            url, origin=None if origin is None else Origin(origin), subprotocols=[PROTOCOL],
            additional_headers=headers, proxy=None,
        ):  # fmt: skip
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_the_page_and_its_socket_have_the_address(server: GuardedServer):
    token, origin = server.access.token, server.access.origin
    status, page, headers = get(server, f"/{token}/")
    assert (status, page[:15]) == (200, b"<!doctype html>")
    assert "connect-src 'self' data: blob: ws://127.0.0.1:" in headers["Content-Security-Policy"]
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert status_of_socket(server, f"/{token}", origin) == 101
    assert status_of_socket(server, f"/{token}/", origin) == 101


def test_without_the_token_there_is_nothing(server: GuardedServer):
    token, origin = server.access.token, server.access.origin
    for path in ("/", "/index.html", "/wrong/", f"/{token}", f"/{token}x/", f"/x/{token}/", f"/?{token}/"):
        assert get(server, path)[0] == 404, path
    for path in ("/", "/wrong", f"/{token}x", f"/{token[:-1]}", f"/?x=/{token}"):
        assert status_of_socket(server, path, origin) == 404, path


def test_nothing_but_viser_s_page_is_served(server: GuardedServer):
    token = server.access.token
    for path in ("../__init__.py", "%2e%2e/__init__.py", "..%5c__init__.py", "/etc/passwd", "other"):
        assert get(server, f"/{token}/{path}")[0] == 404, path


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost"])
def test_other_pages_are_refused(server: GuardedServer, origin: str):
    path = f"/{server.access.token}/"
    assert get(server, path, Origin=origin)[0] == 403
    assert get(server, path, Host=f"localhost:{server.access.port}")[0] == 403
    assert status_of_socket(server, path, origin) == 403
    assert status_of_socket(server, path, f"{origin}:{server.access.port}") == 403


def test_a_socket_names_its_page(server: GuardedServer):
    assert status_of_socket(server, f"/{server.access.token}", None) == 403


def test_other_hosts_and_doubled_headers_are_refused(server: GuardedServer):
    access = server.access
    own, path = f"127.0.0.1:{access.port}", f"/{access.token}/"
    for hosts, status in (([own], 200), (["evil.example"], 403), ([own, own], 400), ([], 403)):
        with socket.create_connection(("127.0.0.1", access.port), timeout=20) as raw:
            lines = [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "", ""]
            raw.sendall("\r\n".join(lines).encode())
            assert raw.recv(64).split(b" ")[1] == str(status).encode(), hosts


def test_no_public_address_is_made(server: GuardedServer):
    assert server.request_share_url() is None
    assert server.get_host() == "127.0.0.1"


def test_a_port_in_use_is_reported(server: GuardedServer):
    with pytest.raises(OSError, match="in use"):
        GuardedServer(server.access.port, "test")


def test_the_library_is_left_as_it_was(server: GuardedServer):
    assert websockets.asyncio.server.serve.__module__ == "websockets.asyncio.server"


def test_a_viser_that_starts_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(viser.ViserServer, "__init__", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=r"starts its server in another way; use viser 1\.1"):
        GuardedServer(0, "test")
