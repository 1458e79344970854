"""Any chat model that LangChain knows: `langchain:PROVIDER:NAME`, such as `langchain:anthropic:claude-sonnet-4-5`.

`langchain` and the provider's own package (`langchain-anthropic`, `langchain-google-genai`, ...) are extras; keys are
read by the provider's package, from the environment variables that its pages name. The schema is bound by
`with_structured_output`, which each provider does in its own way: a forced tool call, or a JSON mode.

Pictures are decoded and written anew as JPEG, without the file's metadata. Seeds are not sent, because most providers
take none: the same question may be answered otherwise tomorrow, and only the reply cache makes a run repeatable. The
weights behind a name are the provider's to change, so the revision speaks of our settings alone.

Left out: streaming, tools, and LangChain's cache, which does not know what shapes our answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from agent.tracing.exporters import unwatched
from agent.tracing.redaction import first_line
from agent.vlm.openai import data_url
from agent.vlm.protocol import Capabilities, ImagePart, Part, Reply
from agent.vlm.settings import above_zero, read_settings

__all__ = ["LangChainBackend", "LangChainSettings", "from_argument"]

Json = dict[str, Any]


@dataclass(frozen=True)
class LangChainSettings:
    """What `--set field=value` can change of this backend."""

    temperature: float | None = None  # None: the provider's own; some models refuse any other
    max_tokens: int | None = None  # of an answer; None: the provider's own limit
    timeout_s: float = 180.0  # of one request
    max_retries: int = 2  # by the provider's package; the agent itself never repeats a request that failed
    image_side_px: int = 1024  # longer pictures are sent smaller
    max_images: int | None = 20  # in one request, the photograph included; larger groups are judged in chunks
    concurrency: int = 8

    def __post_init__(self) -> None:
        above_zero(self, "max_tokens", "timeout_s", "image_side_px", "max_images", "concurrency")

    def for_provider(self) -> Json:
        """The parameters that every provider's class understands."""
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {
            "timeout": self.timeout_s,
            "max_retries": self.max_retries,
            **{name: value for name, value in given.items() if value is not None},
        }


class LangChainBackend:
    """One chat model; safe between threads, as LangChain's models are."""

    def __init__(
        self, chat: BaseChatModel, name: str, sends_to: str, settings: LangChainSettings = LangChainSettings()
    ) -> None:
        self.chat = chat
        self.settings = settings
        self.name = f"langchain:{name}"
        shaping = json.dumps(astuple(settings)).encode()
        self.revision = f"as-served-{hashlib.sha256(shaping).hexdigest()[:8]}"
        self.capabilities = Capabilities(
            images=True,
            max_images=settings.max_images,
            concurrency=settings.concurrency,
            sends_to=sends_to,
        )

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """The answer as the provider structured it, or its bare text where that failed. Raises what the provider's
        package raises."""
        start = time.perf_counter()
        content: list[Any] = [piece for part in parts for piece in self._pieces(part)]
        structured = self.chat.with_structured_output(dict(schema), include_raw=True)
        with unwatched():
            answer: Any = structured.invoke([HumanMessage(content)])
        raw, parsed = answer["raw"], answer["parsed"]
        text = raw.text if parsed is None else json.dumps(parsed, ensure_ascii=False)
        usage = raw.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
        ms = (time.perf_counter() - start) * 1e3
        return Reply(str(text), ms, usage["input_tokens"], usage["output_tokens"])

    def _pieces(self, part: Part) -> list[Json]:
        if not isinstance(part, ImagePart):
            return [{"type": "text", "text": part.text}]
        kind, _, base64 = data_url(part, self.settings.image_side_px).partition(";base64,")
        picture = {"type": "image", "base64": base64, "mime_type": kind.removeprefix("data:")}
        return [{"type": "text", "text": f"{part.caption}:"}, picture] if part.caption else [picture]


def from_argument(argument: str, **settings: object) -> LangChainBackend:
    """The backend of PROVIDER:NAME.

    Raises ValueError for a spec or a setting that is none, a package that is not installed, and whatever keeps the
    provider's package from making the model, such as a missing key.
    """
    provider, _, model = argument.partition(":")
    if not provider or not model:
        raise ValueError(f"langchain:PROVIDER:NAME names a provider and its model, not {argument!r}")
    chosen = read_settings(LangChainSettings, "langchain", settings)
    try:
        from langchain.chat_models import init_chat_model  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "langchain:PROVIDER:NAME needs langchain and the provider's package: "
            f"pip install 'meshcritic[langchain]' langchain-{provider.replace('_', '-')}"
        ) from error
    # A provider's package has errors of its own for what it lacks: a package, a key, a model of that name.
    try:
        chat = init_chat_model(model, model_provider=provider, **chosen.for_provider())
    except Exception as error:
        raise ValueError(f"langchain made no {argument}: {first_line(error)}"[:300]) from error
    return LangChainBackend(chat, argument, provider, chosen)
