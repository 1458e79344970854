"""Backend for LangChain's chat models: `langchain:PROVIDER:NAME`, such as `langchain:anthropic:claude-sonnet-4-5`.

`langchain` and the provider's package (`langchain-anthropic`, `langchain-google-genai`, ...) are extras. The provider's
package reads the key from the environment variable that its documentation names. The schema is passed to
`with_structured_output`, which providers implement as a forced tool call or as a JSON mode. Its limits on numbers,
texts and lists are left out, because some providers refuse them; the prompts state them.

Pictures are decoded and encoded again as JPEG without metadata. Seeds are not sent, because most providers accept none:
the same question may get another answer later, and only the reply cache makes a run repeatable. A provider may change
the weights behind a name, so the revision covers the settings only. The host that receives the questions is read from
the provider's client (`agent.vlm.hosts`), because an environment variable may name another server than the provider's.

Left out: streaming, tools, and LangChain's own cache, whose key lacks some of what an answer depends on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from agent.tracing.exporters import langchain_tracing_disabled
from agent.vlm.hosts import addresses_in, destination
from agent.vlm.messages import Finish, finish_of, read_message
from agent.vlm.protocol import Capabilities, ImagePart, MalformedReply, Part, Reply, Unanswerable
from agent.vlm.schemas import without_bounds
from agent.vlm.servers.chat_request import data_url
from agent.vlm.settings import read_settings, require_from_zero, require_positive
from common.redaction import first_line
from common.storage.fingerprint import json_digest

__all__ = ["LangChainBackend", "LangChainSettings", "from_argument"]

Json = dict[str, Any]


@dataclass(frozen=True)
class LangChainSettings:
    """Settings of this backend for `--set field=value`."""

    temperature: float | None = None  # None: the provider's default; some models accept no other
    max_tokens: int | None = None  # of an answer; None: the provider's limit
    timeout_s: float = 180.0  # per request
    max_retries: int = 2  # by the provider's package; the agent itself does not repeat failed requests
    image_side_px: int = 1024  # larger pictures are scaled down
    max_images: int | None = 20  # per request, the photograph included; larger groups are scored in chunks
    concurrency: int = 8

    def __post_init__(self) -> None:
        require_positive(self, "max_tokens", "timeout_s", "image_side_px", "max_images", "concurrency")
        require_from_zero(self, "temperature")

    def for_provider(self) -> Json:
        """The parameters that the model classes of all providers accept."""
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {
            "timeout": self.timeout_s,
            "max_retries": self.max_retries,
            **{name: value for name, value in given.items() if value is not None},
        }


class LangChainBackend:
    """One chat model. Thread-safe, as LangChain's models are."""

    def __init__(
        self, chat: BaseChatModel, name: str, sends_to: str, settings: LangChainSettings = LangChainSettings()
    ) -> None:
        self.chat = chat
        self.settings = settings
        self.name = f"langchain:{name}"
        shaping = (settings.temperature, settings.max_tokens, settings.image_side_px)
        self.revision = f"as-served-{json_digest(shaping, length=8)}"
        self.capabilities = Capabilities(
            images=True,
            max_images=settings.max_images,
            concurrency=settings.concurrency,
            sends_to=sends_to,
        )

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """The provider's structured answer as JSON, or the plain text if it returned none. Raises what the provider's
        package raises."""
        start = time.perf_counter()
        content: list[Any] = [piece for part in parts for piece in self._pieces(part)]
        structured = self.chat.with_structured_output(without_bounds(schema), include_raw=True)
        with langchain_tracing_disabled(), _named_endings():
            answer: Any = structured.invoke([HumanMessage(content)])
        raw, parsed = answer["raw"], answer["parsed"]
        message = read_message({**raw.additional_kwargs, "content": raw.content})
        text = message.text if parsed is None else json.dumps(parsed, ensure_ascii=False)
        usage = raw.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
        return Reply(
            message.refusal or text,
            (time.perf_counter() - start) * 1e3,
            usage["input_tokens"],
            usage["output_tokens"],
            thinking=message.thinking,
            finish="refusal" if message.refusal else _finish(raw.response_metadata),
        )

    def _pieces(self, part: Part) -> list[Json]:
        if not isinstance(part, ImagePart):
            return [{"type": "text", "text": part.text}]
        kind, _, base64 = data_url(part, self.settings.image_side_px).partition(";base64,")
        picture = {"type": "image", "base64": base64, "mime_type": kind.removeprefix("data:")}
        return [{"type": "text", "text": f"{part.caption}:"}, picture] if part.caption else [picture]


def _finish(metadata: Mapping[str, Any]) -> Finish:
    """Providers give the reason under different names."""
    for key in ("finish_reason", "stop_reason", "done_reason"):
        if reason := finish_of(metadata.get(key)):
            return reason
    return ""


@contextmanager
def _named_endings() -> Iterator[None]:
    """Packages on OpenAI's client raise an answer's ending as an exception; its type is known by name only."""
    try:
        yield
    except Exception as error:
        match type(error).__name__:
            case "LengthFinishReasonError":
                raise MalformedReply("cut off at the limit of tokens; raise max_tokens") from error
            case "ContentFilterFinishReasonError" | "OpenAIRefusalError":
                raise Unanswerable(first_line(error)) from error
        raise


def from_argument(argument: str, **settings: object) -> LangChainBackend:
    """The backend of PROVIDER:NAME.

    Raises ValueError for an invalid spec or setting, a package that is not installed, and any other reason why the
    provider's package cannot create the model, such as a missing key.
    """
    provider, _, model = argument.partition(":")
    if not provider or not model:
        raise ValueError(f"langchain:PROVIDER:NAME needs a provider and a model, not {argument!r}")
    chosen = read_settings(LangChainSettings, "langchain", settings)
    try:
        from langchain.chat_models import init_chat_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "langchain:PROVIDER:NAME needs langchain and the provider's package: "
            f"pip install 'meshcritic[langchain]' langchain-{provider.replace('_', '-')}"
        ) from error
    # Providers raise their own exceptions for a missing package, a missing key or an unknown model.
    try:
        chat = init_chat_model(model, model_provider=provider, **chosen.for_provider())
    except Exception as error:
        raise ValueError(f"langchain cannot create {argument}: {first_line(error)}"[:300]) from error
    return LangChainBackend(chat, argument, _reached_hosts(chat, provider), chosen)


def _reached_hosts(chat: BaseChatModel, provider: str) -> str:
    """The hosts that the provider's client is set to, whether by default, by an argument or by the environment."""
    addresses = addresses_in(chat)
    if not addresses:
        return f"the servers of {provider}, whose package does not tell their host"
    return ", ".join(sorted({host for host in map(destination, addresses) if host}))
