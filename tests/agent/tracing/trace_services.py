"""Fake LangSmith, MLflow and OpenTelemetry services on loopback that record requests, and an exporter that records
cases."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent.tracing.span_tree import Span

EXPERIMENT = {"experiment_id": "7", "name": "meshcritic", "artifact_location": "mlflow-artifacts:/7"}


class Kept:
    """An exporter that keeps what it gets, and fails from the `fails_at`-th case on."""

    name = "kept"

    def __init__(self, fails_at: int | None = None) -> None:
        self.cases: list[Span] = []
        self.tried, self.fails_at, self.closed = 0, fails_at, False

    def export(self, case: Span) -> None:
        self.tried += 1
        if self.tried == self.fails_at:
            raise ConnectionError("refused")
        self.cases.append(case)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    server: TraceServices

    def take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(Request(self.command, self.path, dict(self.headers), body))
        answer = json.dumps(_answer(self.path, body)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = take

    def log_message(self, *_: Any) -> None:
        pass


class TraceServices(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def bodies(self) -> bytes:
        return b"\n".join(request.body for request in self.requests)

    def runs(self) -> list[dict[str, Any]]:
        """What LangSmith was sent, in order."""
        batches = [json.loads(item.body) for item in self.requests if item.path == "/runs/batch"]
        return [run for batch in batches for run in batch["post"]]

    def spans(self) -> list[dict[str, Any]]:
        """What MLflow was sent, in order."""
        files = [json.loads(item.body) for item in self.requests if item.path.endswith("traces.json")]
        return [span for file in files for span in file["spans"]]

    def otlp_spans(self) -> list[Any]:
        """The spans that an OpenTelemetry collector was sent, decoded, in order."""
        bodies = [item.body for item in self.requests if item.path == "/v1/traces"]
        sent = [ExportTraceServiceRequest.FromString(body) for body in bodies]
        return [
            span
            for request in sent
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def trace_services() -> Iterator[TraceServices]:
    server = TraceServices()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(path: str, body: bytes) -> dict[str, Any]:
    if "/experiments/get-by-name" in path:
        return {"experiment": {**EXPERIMENT, "lifecycle_stage": "active"}}
    if path.endswith("/mlflow/traces"):
        info = json.loads(body)["trace"]["trace_info"]
        info["tags"] = {"mlflow.artifactLocation": f"mlflow-artifacts:/7/{info['trace_id']}"}
        return {"trace": {"trace_info": info}}
    return {}
