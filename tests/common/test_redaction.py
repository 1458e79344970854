"""Redaction of keys, authorization headers and images from texts."""

import base64
import json

import pytest

from common.redaction import MAX_ERROR_CHARS, first_line, reason_of, redact, redactor, register_secret

KEY = "sk-canary-0123456789"
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (f"wrong key {KEY}", "wrong key [key]"),
        (f"redirected to http://{KEY.upper()}.example", "redirected to http://[key].example"),
        (f'{{"comment": "{ESCAPED}"}}', '{"comment": "[key]"}'),
        (json.dumps(f'"{ESCAPED}"'), '"\\"[key]\\""'),
        (r"\u0041 \u00e9 \u0022 stay without a key", r"\u0041 \u00e9 \u0022 stay without a key"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer [key]"),
        ('{"x-api-key": "abcdefgh1234"}', '{"x-api-key": "[key]"}'),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [key]"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': 'Basic [key]'}"),
        ("Proxy-Authorization: Negotiate YIIabcdef==", "Proxy-Authorization: Negotiate [key]"),
        ("authorization: abcdefgh1234 was refused", "authorization: [key] was refused"),
        ("x-goog-api-key: abcdefgh1234", "x-goog-api-key: [key]"),
        (r'{"x-goog-api-key\\\": \\\"abcdefgh1234"}', r'{"x-goog-api-key\\\": \\\"[key]"}'),
        ("bearer \t abcdefgh1234", "bearer \t [key]"),
        ("Bearer : 'abcdefgh1234'", "Bearer : '[key]'"),
        ("Api-Key: abcdefgh1234", "Api-Key: [key]"),
        ("GET /v1/models?alt=json&key=abcdefgh1234", "GET /v1/models?alt=json&key=[key]"),
        ("the api key is a basic requirement", "the api key is a basic requirement"),
        (f"sent data:image/png;base64,{PICTURE} back", "sent [base64] back"),
        (f"sent {PICTURE} back", "sent [base64] back"),
        ("the key is EMPTY, a word", "the key is EMPTY, a word"),
        ("0123456789abcdef" * 4, "0123456789abcdef" * 4),  # a sha256
    ],
)
def test_only_secrets_and_images_are_removed(said, left):
    assert redactor({"OPENAI_API_KEY": KEY, "LOCAL_API_KEY": "EMPTY", "HOME": "/sent"})(said) == left


def test_registered_secrets_are_removed_whatever_their_variable_is_called(monkeypatch):
    redacted = redactor({})
    monkeypatch.setattr("common.redaction._registered", set())
    register_secret("credential/0123")
    assert redacted(r"sent credential/0123 and credential\/0123") == "sent [key] and [key]"


def test_a_reason_is_redacted_before_it_is_cut(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = "x " * 135 + KEY  # 14 + 270 letters stand before the key: a cut at 300 would leave 16 of its 20
    assert reason_of(RuntimeError(said)).endswith("x [key]")


@pytest.mark.parametrize(
    "repeated",
    [
        " ", "\\", "=", "a", "bearer ", "authorization: a ", "x-", "data:", "api_key", "\\a", "authorization:", "?key=",
        "\\u0041", KEY[:-1],
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["", "bearer", "authorization: a", "x-", "data:"])
def test_a_long_text_takes_linear_time(start, repeated):
    """Quadratic time would be hours; no time is asserted."""
    assert redactor({"OPENAI_API_KEY": KEY})(start + repeated * 200_000)


def test_only_the_start_of_a_huge_message_is_redacted_and_no_secret_is_cut(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said_before = len("RuntimeError: ") + len(" ")
    for chars in range(len(KEY)):  # of the key, before the limit
        picture = "A" * (MAX_ERROR_CHARS - said_before - chars)
        assert reason_of(RuntimeError(f"{picture} {KEY}")) == "RuntimeError: [base64] "


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(), "RuntimeError"),
        (KeyError(" \n"), "' \\n'"),
        (ValueError(" \n "), "ValueError"),
        (ValueError("\n one\ntwo"), "one"),
        (ValueError(f"no {KEY}"), "no [key]"),
    ],
)
def test_the_first_line_of_an_error(error, line, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert first_line(error) == line


def test_names_and_passwords_in_addresses_are_removed() -> None:
    for address in ("http://user:hunter2@127.0.0.1:9/x", "postgresql://me:pw@host/db"):
        said = redact(f"no server at {address}: refused")
        assert "hunter2" not in said
        assert "pw@" not in said
        assert said.endswith(": refused")
    assert redact("see http://a.invalid/x@y and mail me@b.invalid") == (
        "see http://a.invalid/x@y and mail me@b.invalid"
    )
