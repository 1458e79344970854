"""Profiles of servers with OpenAI's chat completions API: what each accepts, and how it tells what it is.

| server            | told by                                                                          |
|-------------------|----------------------------------------------------------------------------------|
| OpenAI            | its host                                                                         |
| vLLM, SGLang      | `owned_by` in the list of models                                                 |
| llama.cpp         | the header `Server: llama.cpp`, or `owned_by`                                    |
| Ollama            | `owned_by: library`; for other models, an answer to `GET /api/version`           |
| transformers      | its route `/load_model` in `/openapi.json`                                       |

Only servers that tell are recognised; any other, and every proxy, gets the `generic` profile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from agent.vlm.http import Page

__all__ = ["PROFILES", "ProfileName", "ResponseFormat", "ServerProfile", "find_profile"]

ProfileName = Literal["vllm", "sglang", "ollama", "llamacpp", "openai", "transformers", "generic"]
ResponseFormat = Literal["json_schema", "json_object"] | None
OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True)
class ServerProfile:
    """What a server accepts, as far as no setting decides."""

    name: ProfileName
    token_field: str = "max_tokens"  # the field that limits the length of an answer
    response_format: ResponseFormat = "json_schema"
    takes_bounds: bool = True  # whether a schema may limit numbers, texts and lists
    longer_context: str = "start the server with a longer context"  # if it cuts prompts


PROFILES: dict[ProfileName, ServerProfile] = {
    profile.name: profile
    for profile in (
        ServerProfile("vllm", longer_context="raise vLLM's --max-model-len"),
        ServerProfile("sglang", longer_context="raise SGLang's --context-length"),
        ServerProfile("ollama", longer_context="start Ollama with OLLAMA_CONTEXT_LENGTH=32768 or more"),
        ServerProfile("llamacpp", longer_context="raise llama.cpp's --ctx-size"),
        ServerProfile("openai", token_field="max_completion_tokens", takes_bounds=False),
        ServerProfile("transformers", response_format=None),
        ServerProfile("generic"),
    )
}
_OWNERS: dict[str, ProfileName] = {
    "vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama",
}  # fmt: skip


def find_profile(url: str, get: Callable[[str], Page | None]) -> ServerProfile:
    """The profile of the server at `url`, which ends in /v1; `get` returns None where there is no answer."""
    return PROFILES[_name(url, get)]


def _name(url: str, get: Callable[[str], Page | None]) -> ProfileName:
    if urlsplit(url).hostname == OPENAI_HOST:
        return "openai"
    models = get(f"{url}/models")
    if models is None:
        return "generic"
    if models.server.startswith("llama.cpp"):
        return "llamacpp"
    if models.status != 200:
        return "generic"
    for owner in _owners(models.json):
        if owner in _OWNERS:
            return _OWNERS[owner]
    return _by_other_pages(url.removesuffix("/v1"), get)


def _by_other_pages(root: str, get: Callable[[str], Page | None]) -> ProfileName:
    match _json_at(f"{root}/api/version", get):
        case {"version": str()}:
            return "ollama"
    match _json_at(f"{root}/openapi.json", get):
        case {"paths": {"/load_model": _, "/v1/chat/completions": _}}:
            return "transformers"
    return "generic"


def _json_at(url: str, get: Callable[[str], Page | None]) -> Any:
    page = get(url)
    return page.json if page and page.status == 200 else None


def _owners(listing: Any) -> list[str]:
    """The `owned_by` of all models in a list of models."""
    models = listing.get("data") if isinstance(listing, dict) else None
    found = [model.get("owned_by") for model in models or () if isinstance(model, dict)]
    return [owner for owner in found if isinstance(owner, str)]
