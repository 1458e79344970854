"""The host that is named before anything is sent, as the clients of LangChain's providers hold it."""

from types import SimpleNamespace

import httpx
import pytest

from agent.vlm.hosts import addresses_in, destination, is_this_machine


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def openai_like(url: str) -> object:
    """As ChatOpenAI: a resource that holds the client, which holds httpx's."""
    client = SimpleNamespace(_base_url=httpx.URL(url), _client=httpx.Client(base_url=url))
    return SimpleNamespace(openai_api_base=None, client=SimpleNamespace(_client=client))


class Anthropic:
    """As ChatAnthropic: the client is created at its first access, and the setting is a field."""

    anthropic_api_url = "https://field.invalid"

    def __init__(self) -> None:
        self.anthropic_api_url = "https://field.invalid"

    @property
    def _client(self) -> object:
        return SimpleNamespace(base_url="https://client.invalid/v1")

    @property
    def root_client(self) -> object:
        raise RuntimeError("no key")


CLIENTS = {
    "nested": (openai_like("https://far.invalid:8443/v1/"), ["https://far.invalid:8443/v1/"]),
    "lazy": (Anthropic(), ["https://client.invalid/v1", "https://field.invalid"]),
    "boto": (
        SimpleNamespace(client=SimpleNamespace(meta=SimpleNamespace(endpoint_url="https://eu.invalid"))),
        ["https://eu.invalid"],
    ),
    "a template": (SimpleNamespace(endpoint="{region}/v1", base_url=None), []),
    "nothing": (SimpleNamespace(model="m", module=pytest), []),
}


@pytest.mark.parametrize(("client", "urls"), CLIENTS.values(), ids=CLIENTS)
def test_addresses_are_found_in_clients(client, urls):
    assert addresses_in(client) == urls


def test_clients_that_hold_each_other_are_searched_once():
    first, second = SimpleNamespace(), SimpleNamespace(base_url="http://far.invalid")
    first.client, second.parent = second, first
    assert addresses_in(first) == ["http://far.invalid"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.openai.com/v1/", "api.openai.com"),
        ("http://far.invalid:8000/v1", "far.invalid:8000"),
        ("https://user:secret@far.invalid/v1", "far.invalid"),
        ("http://127.0.0.1:11434", ""),
        ("http://localhost:8000/v1", ""),
        ("http://[::1]:8000/v1", ""),
    ],
)
def test_the_host_of_an_address(url, host):
    assert destination(url) == host


def test_a_proxy_is_named(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://me:secret@gate.invalid:3128")
    monkeypatch.setenv("http_proxy", "http://gate.invalid:3128")
    monkeypatch.setenv("no_proxy", "near.invalid")
    assert destination("https://far.invalid/v1") == "far.invalid through the proxy gate.invalid:3128"
    assert destination("https://near.invalid/v1") == "near.invalid"
    # httpx sends this to the proxy too, unless no_proxy has it
    assert destination("http://127.0.0.1:11434") == "127.0.0.1:11434 through the proxy gate.invalid:3128"
    assert destination("http://127.0.0.1:11434", uses_proxies=False) == ""


@pytest.mark.parametrize(("host", "local"), [("localhost:1", True), ("127.1.2.3", True), ("far", False)])
def test_this_machine(host, local):
    assert is_this_machine(host) is local
