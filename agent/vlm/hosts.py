"""Which host a backend's requests really reach, for the sentence that is printed before a photograph is sent.

A client of httpx or requests obeys HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, for addresses of this machine too.
A proxy is named with the host behind it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["addresses_in", "destination", "is_this_machine"]

MAX_DEPTH = 4  # a provider's client is an attribute of an attribute of LangChain's model
# names of attributes with a server's address, and ends of such names
ADDRESS_NAMES = ("base_url", "_base_url", "endpoint_url", "endpoint", "azure_endpoint")
ADDRESS_SUFFIXES = ("_api_base", "_api_url", "_base_url")
CLIENT_NAMES = ("client", "_client", "root_client")  # created at the first access in some packages


def is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def destination(url: str, uses_proxies: bool = True) -> str:
    """The host of an address, with its port if it has one, and the proxy before it; empty for this machine."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if uses_proxies and (proxy := _proxy(parts)):
        return f"{host} through the proxy {proxy}"
    return "" if is_this_machine(host) else host


def addresses_in(client: object) -> list[str]:
    """The addresses of servers in the attributes of a client, and in those of the clients that it contains, sorted."""
    found: set[str] = set()
    level, seen = [client], {id(client)}
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            for name, value in _attributes(item):
                if name in ADDRESS_NAMES or name.endswith(ADDRESS_SUFFIXES):
                    found.update(url for url in [str(value)] if _is_address(url))
                elif id(value) not in seen and _may_hold_a_client(value):
                    seen.add(id(value))
                    below.append(value)
        level = below
    return sorted(found)


def _attributes(item: object) -> Iterator[tuple[str, Any]]:
    yield from dict(getattr(item, "__dict__", None) or {}).items()
    yield from dict(getattr(item, "__pydantic_private__", None) or {}).items()
    for name in (*CLIENT_NAMES, *ADDRESS_NAMES):
        # a property of another package's class
        try:
            yield name, getattr(item, name)
        except Exception:  # noqa: BLE001
            continue


def _may_hold_a_client(value: object) -> bool:
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _proxy(parts: SplitResult) -> str:
    """Host and port of the proxy that the environment sets for an address; empty if there is none."""
    if not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    proxies = getproxies()
    return urlsplit(proxies.get(parts.scheme) or proxies.get("all", "")).netloc.rpartition("@")[2]
