"""Settings of the `openai:` backend: `--set field=value`.

`extra_body` and `headers` are mappings in YAML or JSON, or @FILE with one. A header is given by the name of the
environment variable that has its value, so that no secret is on a command line, in a file or in a report.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from agent.vlm.http import RequestLimits
from agent.vlm.servers.profiles import ProfileName, ResponseFormat, ServerProfile
from agent.vlm.settings import require_from_zero, require_positive
from common.reading.yaml_fields import parse_yaml
from common.storage.fingerprint import json_digest

__all__ = ["OpenAISettings", "headers_from_environment"]

# fields that the backend or another setting decides on
OWN_FIELDS = (
    "model", "messages", "tools", "tool_choice", "response_format", "seed", "temperature", "max_tokens",
    "max_completion_tokens", "stream", "n",
)  # fmt: skip
# headers that belong to the connection, or on which the client relies
OWN_HEADERS = (
    "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding",
)  # fmt: skip
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def read_mapping(value: object) -> object:
    """The mapping of a setting: given as such, as YAML or JSON, or as @FILE. Raises ValueError or FileNotFoundError."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = _parse_yaml(_text_of(value))
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping such as {name: value}, in YAML or JSON, or @FILE with one")
    return dict(value)


def _text_of(value: str) -> str:
    if not value.startswith("@"):
        return value
    path = Path(value[1:])
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from error


def _parse_yaml(text: str) -> object:
    # the error of the parser would quote the text
    try:
        return parse_yaml(text, "it")
    except ValueError:
        raise ValueError("is not YAML or JSON") from None


MappingSetting = Annotated[dict[str, Any], BeforeValidator(read_mapping)]
NameSetting = Annotated[dict[str, str], BeforeValidator(read_mapping)]


@dataclass(frozen=True)
class OpenAISettings(RequestLimits):
    """Settings of this backend for `--set field=value`, the request limits included. "auto": as the profile says."""

    temperature: float | None = 0.0  # None: the server's default; some OpenAI models accept no other
    max_tokens: int | None = None  # of an answer; None: the server's limit
    images: bool = True  # false: a text judge, which gets the measurements and no pictures
    image_side_px: int = 1024  # larger pictures are scaled down
    max_images: int | None = None  # per request, the photograph included; larger groups are scored in chunks
    profile: Literal["auto"] | ProfileName = "auto"  # auto: the server is asked what it is
    token_field: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"  # sends `max_tokens`
    response_format: Literal["auto"] | ResponseFormat = "auto"  # None: only the question contains the schema
    send_seed: bool = True
    tool_calls: bool = True  # in the agentic mode; false: actions as JSON, for servers without tool calls
    extra_body: MappingSetting = field(default_factory=dict)  # further fields of every request
    headers: NameSetting = field(default_factory=dict)  # of every request: name and environment variable

    def __post_init__(self) -> None:
        require_positive(self, "deadline_s", "attempts", "max_bytes", "concurrency")
        require_positive(self, "max_tokens", "image_side_px", "max_images")
        require_from_zero(self, "backoff_s", "temperature")
        if own := sorted(set(self.extra_body) & set(OWN_FIELDS)):
            raise ValueError(
                f"extra_body cannot hold {', '.join(own)}, which the backend or a setting decides on"
            )
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("extra_body has a value that JSON has not, such as a date or .nan") from None

    def format_for(self, profile: ServerProfile) -> ResponseFormat:
        return profile.response_format if self.response_format == "auto" else self.response_format

    def token_field_for(self, profile: ServerProfile) -> str:
        return profile.token_field if self.token_field == "auto" else self.token_field

    @property
    def digest(self) -> str:
        """Of all settings that an answer depends on; the values of headers are secrets and therefore left out."""
        shaping = [
            self.temperature, self.max_tokens, self.images, self.image_side_px, self.profile, self.token_field,
            self.response_format, self.send_seed, self.extra_body, sorted(self.headers), self.tool_calls,
        ]  # fmt: skip
        return json_digest(shaping, length=8)


def headers_from_environment(headers: Mapping[str, str]) -> dict[str, str]:
    """The values of headers from the variables that the setting names.

    Raises ValueError, without quoting what was given as a variable or what it holds: either may be a secret.
    """
    found = {}
    for name, variable in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
            raise ValueError(f"headers cannot hold {name!r}; not allowed are {', '.join(OWN_HEADERS)}")
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ValueError(
                f"headers takes the name of an environment variable for each header; that of {name} is not set"
            )
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"headers: the variable of {name} has characters that a header cannot have")
        found[name] = value
    return found
