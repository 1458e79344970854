"""One POST that always comes back: with the body of an answer, or with the reason why there is none, in time.

Everything about one question (connecting, waiting, reading, trying again) happens under one deadline on an event loop,
so that a server that drips a byte a second, be it in its headers, is cut off like one that is silent. The calling
threads only wait. One loop in one daemon thread serves every backend of the process.

Tried again, until the deadline or the attempts are over: 429 and 5xx (after Retry-After, in seconds or as a date, if
the server says so), and connections that fail or break. Not tried again: any other status, redirects (which would
carry photographs elsewhere), a body that is too long or no JSON. Some of those statuses are the question's fault
(`Unanswerable`), the others are the server's.

A connection serves one request: to a server that thinks for seconds a new one costs nothing, and none goes stale.
Left out: streamed answers (SSE), which nobody reads along here.
"""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache

import httpx

from agent.tracing.redaction import without_pictures
from agent.vlm.protocol import Unanswerable

__all__ = ["ServerError", "Wire", "WireLimits", "retry_after_s"]

CONNECT_S = 10.0
EXCERPT_CHARS = 200  # of what a server says about its own failure
BAD_QUESTION = (
    400,
    413,
    422,
)  # the question is malformed, too large, or not to be processed (RFC 9110, 15.5)


class ServerError(RuntimeError):
    """A server that did not answer; the message says how, and holds no key and no picture."""


class _TryAgain(Exception):
    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class WireLimits:
    """How long, how often, how much, how many at once."""

    deadline_s: float = 180.0  # of one question, from when it gets its place among the concurrent ones
    attempts: int = 4
    backoff_s: float = 0.5  # before the second attempt; doubled before each one after
    max_bytes: int = 2_000_000  # of a body: a hundred times what judging twenty hypotheses takes
    concurrency: int = 32


@dataclass(frozen=True)
class Body:
    """What a server answered, and how many requests failed before it did."""

    text: str
    retries: int


class Wire:
    """Posts JSON to one address, for many threads at once; `spend` is called before every request."""

    def __init__(
        self, url: str, key: str, limits: WireLimits, spend: Callable[[], None], local: bool
    ) -> None:
        self._url, self._key, self._limits, self._spend = url, key, limits, spend
        self._loop = _event_loop()
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._client = httpx.AsyncClient(
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=not local,  # what is meant for this machine goes through no proxy
        )

    def post(self, body: bytes) -> Body:
        """The answer's body. Raises ServerError, Unanswerable, TimeoutError, or what `spend` raises."""
        return asyncio.run_coroutine_threadsafe(self._post(body), self._loop).result()

    def clean(self, text: str) -> str:
        """A server's words without the key and without pictures: some quote the request they refuse."""
        return without_pictures(text.replace(self._key, "[key]") if self._key else text)

    async def _post(self, body: bytes) -> Body:
        deadline_s = self._limits.deadline_s
        async with self._slots:
            try:
                async with asyncio.timeout(deadline_s):
                    return await self._persist(body, time.monotonic() + deadline_s)
            except TimeoutError:
                raise TimeoutError(f"no complete answer within {deadline_s:g} s") from None

    async def _persist(self, body: bytes, end: float) -> Body:
        failure = ""
        for attempt in range(self._limits.attempts):
            self._spend()
            try:
                return Body(await self._once(body), attempt)
            except (_TryAgain, httpx.TransportError) as error:
                failure = self.clean(str(error) or type(error).__name__)
                asked_s = error.wait_s if isinstance(error, _TryAgain) else None
            wait_s = self._backoff_s(attempt, body) if asked_s is None else asked_s
            if time.monotonic() + wait_s >= end:
                raise ServerError(f"{failure}; trying again in {wait_s:.3g} s would miss the deadline")
            if attempt + 1 < self._limits.attempts:
                await asyncio.sleep(wait_s)
        raise ServerError(f"{failure}; {self._limits.attempts} attempts")

    async def _once(self, body: bytes) -> str:
        async with self._client.stream("POST", self._url, content=body) as response:
            if response.status_code != 200:
                said = self.clean(await _beginning(response))[:EXCERPT_CHARS]
                reason = f"HTTP {response.status_code}: {said}"
                if response.status_code == 429 or response.status_code >= 500:
                    raise _TryAgain(reason, retry_after_s(response.headers.get("Retry-After")))
                raise Unanswerable(reason) if response.status_code in BAD_QUESTION else ServerError(reason)
            kind = response.headers.get("Content-Type", "nothing")
            if kind.partition(";")[0].strip().lower() != "application/json":
                raise ServerError(f"the answer's content type is {self.clean(kind)}, not application/json")
            return await _read(response, self._limits.max_bytes)

    def _backoff_s(self, attempt: int, body: bytes) -> float:
        """Doubling, and stretched by up to 2 by the question, so that those that failed together return apart."""
        return self._limits.backoff_s * 2**attempt * (1 + zlib.crc32(body) / 2**32)


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number, or a date; None for neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


async def _read(response: httpx.Response, max_bytes: int) -> str:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise ServerError(f"the answer is longer than {max_bytes:,} bytes")
    return body.decode(errors="replace")


async def _beginning(response: httpx.Response) -> str:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > 10 * EXCERPT_CHARS:
            break
    return " ".join(body.decode(errors="replace").split())


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="vlm-wire", daemon=True).start()
    return loop
