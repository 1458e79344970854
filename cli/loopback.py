"""Who may use a server on this machine: what the page of `meshcritic rank` and that of `meshcritic view` check.

The address has a random token, without which every path is answered with 404. A request must name this server in its
header Host, so that another name that resolves to 127.0.0.1 gives no access, and may come from no other page (Origin).
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

__all__ = ["HEADERS", "HOST", "LoopbackAccess", "Refused"]

HOST = "127.0.0.1"
HEADERS = {  # of every answer
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Refused(Exception):
    """A request that is not answered; `status` is that of HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class LoopbackAccess:
    """The address of a server on 127.0.0.1, with its token."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/{self.token}/"

    def path_after_token(self, path: str, host: str | None, origin: str | None) -> str:
        """The path that a request asks for, without `/TOKEN/`.

        host, origin: the headers of the request; browsers leave out Origin where a page asks its own server for a file.
        Raises Refused.
        """
        _, token, *rest = [*path.split("/", 2), "", ""][:3]
        if host != f"{HOST}:{self.port}" or origin not in (None, self.origin):
            raise Refused(403, "this server answers requests of its own page only")
        if not hmac.compare_digest(token.encode(), self.token.encode()) or path.count("/") < 2:
            raise Refused(404, "there is no such page")
        return rest[0]
