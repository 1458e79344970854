"""HTTP client for JSON requests with one deadline per question, retries included.

Connecting, sending, reading and waiting between attempts all count against the deadline, so a server that sends one
byte per second, even within its headers, is cut off like one that sends nothing. Requests run on one event loop in a
daemon thread that all backends of the process share; the calling threads block until their answer is there.

Retried until the deadline or the last attempt: 429 and 5xx (after the time in Retry-After, in seconds or as a date, if
the server sends that header), and connections that fail or break. Not retried: any other status, redirects (which would
send photographs to another server), a body that is too long or in an encoding other than gzip and deflate, and a body
that is not JSON. Decoding stops at the limit of the length. Of the statuses that are not
retried, some mean that the question itself is at fault (`Unanswerable`), the others that the server is.

Each request opens its own connection: the cost is negligible beside an answer that takes seconds, and no connection can
go stale. When the command is stopped (`common.stopping`), all requests are cancelled.

Left out: streamed answers (SSE).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from agent.vlm.messages import error_message
from agent.vlm.protocol import Unanswerable
from common.redaction import register_secret, without_pictures, without_secrets
from common.stopping import Stopped, on_stop, raise_if_stopped

__all__ = ["JsonClient", "Page", "RequestLimits", "ServerError", "retry_after_s"]

T = TypeVar("T")
CONNECT_S = 10.0
GET_S = 5.0  # for a page that tells what the server is
EXCERPT_CHARS = 200  # of an error body, in a message
ZLIB_OR_GZIP = zlib.MAX_WBITS | 32  # the header tells which (zlib's manual, inflateInit2)
# The question is malformed, too large, or cannot be processed (RFC 9110, 15.5).
QUESTION_AT_FAULT = (400, 413, 422)


class ServerError(RuntimeError):
    """The server did not answer. The message gives the reason and contains neither key nor picture."""


class _Retryable(Exception):
    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class RequestLimits:
    """Limits on time, attempts, size and concurrency."""

    deadline_s: float = 180.0  # per question, counted from when it leaves the queue of concurrent requests
    attempts: int = 4
    backoff_s: float = 0.5  # before the second attempt; doubled before each later one
    max_bytes: int = 2_000_000  # of a body; a hundred times the length of an answer about twenty hypotheses
    concurrency: int = 32


@dataclass(frozen=True)
class ResponseBody:
    """The body of a successful response, and the number of requests that failed before it."""

    text: str
    retries: int


@dataclass(frozen=True)
class Page:
    """The answer to a GET request."""

    status: int
    server: str  # the header of that name
    text: str

    @property
    def json(self) -> Any:
        """None if the text is not JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


class JsonClient:
    """Posts JSON to one URL, from many threads at once; `spend` is called before every request."""

    def __init__(
        self,
        url: str,
        key: str,
        limits: RequestLimits,
        spend: Callable[[], None],
        local: bool,
        headers: Mapping[str, str],
    ) -> None:
        self._url, self._limits, self._spend = url, limits, spend
        self._secrets = {key, *headers.values()}
        for value in self._secrets:
            register_secret(value)  # traces redact it too
        self._loop = _event_loop()
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._client = httpx.AsyncClient(
            headers=_all_headers(key, headers),
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=not local,  # requests to this machine use no proxy
        )

    def post(self, body: bytes) -> ResponseBody:
        """The body of the answer. Raises ServerError, Unanswerable, TimeoutError, what `spend` raises, or Stopped.

        A caller that is interrupted takes its request with it.
        """
        return self._run(self._post(body))

    def get(self, url: str) -> Page | None:
        """The answer to a GET request, which is not counted; None if there is none. Raises Stopped."""
        raise_if_stopped()
        return self._run(self._get(url))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        request = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            with on_stop(request.cancel):
                return request.result()
        except CancelledError:
            raise Stopped from None
        finally:
            request.cancel()  # no effect on a request that has ended

    def clean(self, text: str) -> str:
        """The text without the key, the values of given headers, and pictures: some servers quote the request that they
        refuse."""
        return without_pictures(without_secrets(text, self._secrets))

    async def _get(self, url: str) -> Page | None:
        try:
            async with (
                asyncio.timeout(min(GET_S, self._limits.deadline_s)),
                self._client.stream("GET", url) as response,
            ):
                text = await _read(response, self._limits.max_bytes)
                return Page(response.status_code, response.headers.get("Server", ""), text)
        except (TimeoutError, httpx.HTTPError, ServerError):
            return None

    async def _post(self, body: bytes) -> ResponseBody:
        deadline_s = self._limits.deadline_s
        async with self._slots:
            try:
                async with asyncio.timeout(deadline_s):
                    return await self._with_retries(body, time.monotonic() + deadline_s)
            except TimeoutError:
                raise TimeoutError(f"no complete answer within {deadline_s:g} s") from None

    async def _with_retries(self, body: bytes, end: float) -> ResponseBody:
        failure = ""
        for attempt in range(self._limits.attempts):
            self._spend()
            try:
                return ResponseBody(await self._send(body), attempt)
            except (_Retryable, httpx.TransportError) as error:
                failure = self.clean(str(error) or type(error).__name__)
                retry_after = error.wait_s if isinstance(error, _Retryable) else None
            wait_s = self._backoff_s(attempt, body) if retry_after is None else retry_after
            if time.monotonic() + wait_s >= end:
                raise ServerError(f"{failure}; a retry in {wait_s:,.1f} s would miss the deadline")
            if attempt + 1 < self._limits.attempts:
                await asyncio.sleep(wait_s)
        raise ServerError(f"{failure}; {self._limits.attempts} attempts")

    async def _send(self, body: bytes) -> str:
        async with self._client.stream("POST", self._url, content=body) as response:
            status = response.status_code
            if status != 200:
                start = await _read_start(response)
                excerpt = self.clean(error_message(start) or start)[:EXCERPT_CHARS]
                if response.is_redirect:
                    host = urlsplit(response.headers.get("Location", "")).hostname or "another path"
                    excerpt = f"a redirect to {self.clean(host)}, which is not followed"
                reason = f"HTTP {status}: {excerpt}"
                if status == 429 or status >= 500:
                    raise _Retryable(reason, retry_after_s(response.headers.get("Retry-After")))
                raise Unanswerable(reason) if status in QUESTION_AT_FAULT else ServerError(reason)
            content_type = response.headers.get("Content-Type", "missing")
            if content_type.partition(";")[0].strip().lower() != "application/json":
                content_type = self.clean(content_type)
                raise ServerError(f"the answer's content type is {content_type}, not application/json")
            return await _read(response, self._limits.max_bytes)

    def _backoff_s(self, attempt: int, body: bytes) -> float:
        """Exponential, times a factor between 1 and 2 from the body's checksum, so that requests that failed together
        are not repeated together."""
        return self._limits.backoff_s * 2**attempt * (1 + zlib.crc32(body) / 2**32)


def _all_headers(key: str, given: Mapping[str, str]) -> dict[str, str]:
    """Given headers replace those of the client; names are compared without case."""
    own = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        **({"Authorization": f"Bearer {key}"} if key else {}),
    }
    names = {name.lower() for name in given}
    return {**{name: value for name, value in own.items() if name.lower() not in names}, **given}


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After header gives (RFC 9110, 10.2.3), as a number or as a date; otherwise None."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


async def _read(response: httpx.Response, max_bytes: int) -> str:
    body = await _decoded(response, max_bytes + 1)
    if len(body) > max_bytes:
        raise ServerError(f"the answer is longer than {max_bytes:,} bytes")
    return body.decode(errors="replace")


async def _read_start(response: httpx.Response) -> str:
    body = await _decoded(response, 10 * EXCERPT_CHARS)
    return " ".join(body.decode(errors="replace").split())


async def _decoded(response: httpx.Response, max_bytes: int) -> bytes:
    """At most the first `max_bytes` of the body.

    httpx would decode each chunk as a whole, and encodings one after another: 5 KB become gigabytes.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate", ""):
        raise ServerError(
            f"the answer has the content encoding {encoding[:EXCERPT_CHARS]!r}, which is not read"
        )
    unpack = zlib.decompressobj(wbits=ZLIB_OR_GZIP) if encoding in ("gzip", "deflate") else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        left = max_bytes - len(body)
        try:
            body += unpack.decompress(chunk, left) if unpack else chunk[:left]
        except zlib.error as error:
            raise ServerError(f"the answer is not in its content encoding, {encoding}: {error}") from None
        if len(body) >= max_bytes:
            break
    return bytes(body)


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="vlm-http", daemon=True).start()
    return loop
