"""A local server with the OpenAI protocol and configurable faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

Act = Callable[["Handler", dict], None]
DRIP_S = 0.01


class Handler(BaseHTTPRequestHandler):
    """Answers a request with the next act of the server; the last act is repeated."""

    protocol_version = "HTTP/1.0"
    server: ChatServer

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        act = self.server.note(question, dict(self.headers))
        act(self, question)

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        page = self.server.pages.get(self.path)
        if page is None:
            self.send(b"{}", status=404)
        else:
            self.send(json.dumps(page).encode())

    def version_string(self) -> str:
        return self.server.software

    def send(
        self,
        body: bytes,
        status: int = 200,
        kind: str = "application/json",
        length: int | None = None,
        **headers: str,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """`questions` are all questions received, `headers` those of the last one; `paths` are the GET requests, which are
    answered with the JSON in `pages`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *acts: Act) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts, self.questions, self.headers = list(acts), [], {}
        self.pages: dict[str, Any] = {}
        self.paths: list[str] = []
        self.software = "fake"  # the header Server
        self.over = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def tasks(self) -> list[str]:
        return [task_of(question) for question in self.questions]

    def note(self, question: dict, headers: dict) -> Act:
        with self._lock:
            self.questions.append(question)
            self.headers = headers
            return self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]

    def handle_error(self, *_: Any) -> None:
        """Many tests close the connection on purpose."""


@contextmanager
def chat_server(*acts: Act) -> Iterator[ChatServer]:
    server = ChatServer(*acts)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def task_of(question: dict) -> str:
    return schema_of(question)["title"]


def schema_of(question: dict) -> dict:
    """The schema in the format, or in the text of a question without one."""
    if "json_schema" in (form := question.get("response_format", {})):
        return form["json_schema"]["schema"]
    content = question["messages"][0]["content"]
    texts = [content] if isinstance(content, str) else [piece.get("text", "") for piece in content]
    wanted = next(text for text in texts if "fits this schema" in text)
    return json.JSONDecoder().raw_decode(wanted, wanted.index("{", wanted.rindex("fits this schema")))[0]


def fitting(question: dict) -> Any:
    """A valid answer: A gets 90, B 80 and so on, and no score is uncertain."""
    task, labels = task_of(question), list(schema_of(question)["properties"])
    if task in ("tag", "mine"):
        return {"tag": {"tags": ["pose:upright"]}, "mine": {"rules": []}}[task]
    if task == "reflect":
        return {label: {"uncertain": False, "reason": ""} for label in labels}
    return {
        label: {"comment": f"said of {label}", "score": 90 - 10 * place} for place, label in enumerate(labels)
    }


def completion(text: Any, finish: str = "stop", **message: Any) -> bytes:
    """A completion with this content, and with further fields of the message, such as reasoning_content."""
    usage = {"prompt_tokens": 9000, "completion_tokens": 7}
    choice = {"message": {"content": text, **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def good(handler: Handler, question: dict) -> None:
    handler.send(completion(json.dumps(fitting(question))))


def unbiased(question: dict) -> Any:
    """A valid answer with scores by question. Scores that follow the labels would be withheld from training, so another
    label has the highest in each order of a group, whose seeds are successive."""
    answer, random = fitting(question), Random(json.dumps(question["messages"]))
    if task_of(question) == "score":
        step = 60 // len(answer)
        for place, said in enumerate(answer.values()):
            turned = (place + question.get("seed", 0)) % len(answer)
            said["score"] = step * turned + random.randrange(40)
    return answer


def fair(handler: Handler, question: dict) -> None:
    handler.send(completion(json.dumps(unbiased(question))))


def saying(change: Callable[[str, dict], str]) -> Act:
    """A completion with the text `change(valid answer, question)`."""
    return lambda handler, question: handler.send(completion(change(json.dumps(fitting(question)), question)))


def scoring(change: Callable[[dict], Any]) -> Act:
    """A valid answer, with the scores replaced by `change(scores)`."""

    def text(fits: str, question: dict) -> str:
        return json.dumps(change(json.loads(fits))) if task_of(question) == "score" else fits

    return saying(text)


def lone_surrogate(handler: Handler, question: dict) -> None:
    """A valid answer with lone surrogates before and within it, as from a truncated token stream."""
    fits = json.dumps(fitting(question)).replace("said of", "said \ud83d of")
    handler.send(completion(f"\ud83d {fits}"))


def body(raw: bytes, **how: Any) -> Act:
    return lambda handler, question: handler.send(raw, **how)


def cut(handler: Handler, question: dict) -> None:
    handler.send(completion("{}")[:20], length=1000)


def hang_up(handler: Handler, question: dict) -> None:
    handler.close_connection = True


def drip(handler: Handler, question: dict) -> None:
    """Endless JSON white space, one byte at a time."""
    handler.send(b"", length=10**9)
    while not handler.server.over.wait(DRIP_S):
        handler.wfile.write(b" ")


def drip_headers(handler: Handler, question: dict) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.over.wait(DRIP_S):
        handler.wfile.write(b"o")


def silent(handler: Handler, question: dict) -> None:
    handler.server.over.wait()


def flood(handler: Handler, question: dict) -> None:
    """30 MB without a Content-Length."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" " * 1_000_000)


def parrot(handler: Handler, question: dict) -> None:
    """Refuses the request and quotes it, with key and pictures."""
    quoted = {"error": handler.headers["Authorization"], "input": question}
    handler.send(json.dumps(quoted).encode(), status=422)
