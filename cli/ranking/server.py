"""A page on this machine that collects rankings: an HTTP server of the standard library on 127.0.0.1.

Requests are checked by `cli.loopback`; an answer must come from this page. Only the paths of `_Handler` exist; nothing
is read from the disk by path.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import jinja2

from cli.loopback import HEADERS, HOST, LoopbackAccess, Refused
from cli.ranking.groups import GroupPictures
from cli.ranking.session import Session
from common.stopping import raise_if_stopped

__all__ = ["RankingServer"]

MAX_ANSWER_BYTES = 10_000
REQUEST_TIMEOUT_S = 20.0
POLL_S = 0.2


class RankingServer(ThreadingHTTPServer):
    """Serves one session until all of its questions are answered.

    pictures: draws a group by name; it is called once per group that is shown, and again if another one was shown
    between.
    """

    daemon_threads = True

    def __init__(self, session: Session, pictures: Callable[[str], GroupPictures], port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.session, self._draw = session, pictures
        self._drawing = threading.Lock()  # a page asks for all pictures of a group at once
        self.finished = threading.Event()
        self.access = LoopbackAccess(self.server_address[1])
        self.timeout = POLL_S

    def serve_until_finished(self) -> None:
        """Returns after the last answer was confirmed to the page."""
        while not self.finished.is_set():
            raise_if_stopped()
            self.handle_request()

    def pictures(self, group: str) -> GroupPictures:
        with self._drawing:
            return self._draw(group)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection early is no error of this program."""


class _Handler(BaseHTTPRequestHandler):
    """GET: the page, `question`, `picture/NUMBER/PLACE`. POST: `answer`."""

    server_version, sys_version = "meshcritic", ""
    timeout = REQUEST_TIMEOUT_S

    @property
    def ranking(self) -> RankingServer:
        return cast(RankingServer, self.server)

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        nonce = secrets.token_urlsafe(16)
        match path.split("/"):
            case [""]:
                self._send(200, "text/html; charset=utf-8", _page(nonce), _policy(nonce))
            case ["question"]:
                self._send_json(200, self.ranking.session.state())
            case ["picture", number, place]:
                self._send_picture(number, place)
            case _:
                self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        path = self._path()
        if path is None:
            return
        if path != "answer":
            self._refuse(404, "there is no such page")
        elif self.headers.get("Origin") != self.ranking.access.origin:
            self._refuse(403, "an answer comes from the page of this server only")
        else:
            self._take_answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address has the token."""

    def _path(self) -> str | None:
        """The path after the token; None if the request was refused."""
        try:
            return self.ranking.access.path_after_token(
                self.path, self.headers.get("Host"), self.headers.get("Origin")
            )
        except Refused as refused:
            self._refuse(refused.status, refused.reason)
            return None

    def _take_answer(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_ANSWER_BYTES:
            self._refuse(413, f"an answer has at most {MAX_ANSWER_BYTES} bytes")
            return
        try:
            found = json.loads(self.rfile.read(length))
            self.ranking.session.answer(found["question"], found["order"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._refuse(400, str(error))
            return
        self._send_json(200, self.ranking.session.state())
        if self.ranking.session.finished:
            self.ranking.finished.set()

    def _send_picture(self, number: str, place: str) -> None:
        """`place` is a position of the question, or `photo`."""
        questions = self.ranking.session.questions
        if not (number.isdecimal() and int(number) < len(questions)):
            self._refuse(404, "there is no such question")
            return
        question = questions[int(number)]
        if place != "photo" and not (place.isdecimal() and int(place) < len(question.shown)):
            self._refuse(404, "there is no such picture")
            return
        drawn = self.ranking.pictures(question.group)
        jpeg = drawn.photo if place == "photo" else drawn.hypotheses[question.shown[int(place)]]
        self._send(200, "image/jpeg", jpeg)

    def _refuse(self, status: int, reason: str) -> None:
        self._send_json(status, {"error": reason})

    def _send_json(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, content: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", f"{policy}; frame-ancestors 'none'; base-uri 'none'")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _policy(nonce: str) -> str:
    own = "img-src 'self'; connect-src 'self'"
    return f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; {own}"


def _page(nonce: str) -> bytes:
    return _template().render(nonce=nonce).encode()


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html.jinja")
