"""The OpenAI backend against a faulty server: every question ends in time, with an answer or a reason."""

import base64
import email.utils
import gzip
import io
import json
import threading
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import ask
from agent.vlm import DataPart, ImagePart, TextPart, load_backend
from agent.vlm.http import retry_after_s
from agent.vlm.wrappers.budget import Budget
from tests.agent.vlm.chat_server import (
    body,
    chat_server,
    completion,
    cut,
    drip,
    drip_headers,
    fitting,
    flood,
    good,
    hang_up,
    lone_surrogate,
    parrot,
    saying,
    silent,
)

KEY = "sk-canary-0123456789"
MODEL = keyed_by_label("score", Verdict, ["A", "B"])
QUICK = {"deadline_s": 20.0, "backoff_s": 0.001}


def picture(size: tuple[int, int] = (40, 30), **how) -> ImagePart:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, "PNG", **how)
    return ImagePart(buffer.getvalue(), "hypothesis A")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def backend_at(server, **settings):
    return load_backend(f"openai:some/model@{server.url}", **{**QUICK, **settings})


def asked(server, *parts, **settings):
    return ask(backend_at(server, **settings), "score", parts or [TextPart("judge")], MODEL, 3)


def test_the_request_body():
    with chat_server(good) as server:
        answer = asked(
            server, TextPart("judge"), picture(), DataPart("tags", ["pose:bent"]), max_tokens="500"
        )
    assert (answer.value.A.score, answer.value.B.score) == (90, 80)
    assert answer.replies[0]["tokens"] == [9000, 7]
    (question,) = server.questions
    texts = [piece.get("text") for piece in question["messages"][0]["content"]]
    assert texts[:2] == ["judge", "hypothesis A:"]
    assert texts[3] == '<tags>\n["pose:bent"]\n</tags>'
    assert '"additionalProperties": false' in texts[-1]
    assert question["response_format"]["json_schema"]["strict"] is True
    expected = {"model": "some/model", "seed": 3, "temperature": 0.0, "max_tokens": 500}
    assert expected.items() <= question.items()
    assert server.headers["Authorization"] == f"Bearer {KEY}"


def test_pictures_are_sent_small_upright_and_without_metadata():
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    exif[0x0112] = 6  # turned by 90 degrees
    with chat_server(good) as server:
        asked(server, picture((400, 200), exif=exif), image_side_px=64)
    pieces = server.questions[0]["messages"][0]["content"]
    (url,) = [piece["image_url"]["url"] for piece in pieces if piece["type"] == "image_url"]
    kind, data = url.split(";base64,")
    sent = base64.b64decode(data)
    with Image.open(io.BytesIO(sent)) as image:
        assert (kind, image.format, image.size) == ("data:image/jpeg", "JPEG", (32, 64))
        assert not image.getexif()
    assert b"a secret place" not in sent


RETRIED = {
    "429": (body(b"slow down", status=429, Retry_After="0"), 1),
    "500": (body(b"oops", status=500), 1),
    "503 with a date": (
        body(b"", status=503, Retry_After=email.utils.formatdate(0, usegmt=True)),
        1,
    ),
    "cut in the answer": (cut, 1),
    "hung up": (hang_up, 1),
    "truncated envelope": (body(completion("{}")[:-9]), 0),
    "empty choices": (body(b'{"choices": []}'), 0),
    "no text": (body(completion(None)), 0),
    "a list": (body(b"[]"), 0),
    "a lone surrogate": (body(completion("\ud83d")), 0),
}


@pytest.mark.parametrize(("bad", "retries"), RETRIED.values(), ids=RETRIED)
def test_temporary_failures_are_retried(bad, retries):
    with chat_server(bad, good) as server:
        answer = asked(server)
    assert answer.value.A.score == 90
    assert len(server.questions) == 2
    assert answer.replies[-1]["retries"] == retries


@pytest.mark.parametrize(("encoding", "pack"), {"gzip": gzip.compress, "deflate": zlib.compress}.items())
def test_an_answer_in_an_encoding_that_was_not_asked_for_is_read(encoding, pack):
    def act(handler, question):
        handler.send(pack(completion(json.dumps(fitting(question)))), Content_Encoding=encoding)

    with chat_server(act) as server:
        assert asked(server).value.A.score == 90


def test_the_limit_of_an_answer_holds_while_it_is_decoded():
    bomb = gzip.compress(bytes(100_000_000), compresslevel=1)
    with chat_server(body(bomb, Content_Encoding="gzip")) as server:
        tracemalloc.start()
        try:
            answer = asked(server)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert "longer than 2,000,000 bytes" in answer.reason
    assert peak < 20_000_000


def test_a_lone_surrogate_in_an_answer_is_replaced():
    with chat_server(lone_surrogate) as server:
        answer = asked(server)
    assert (answer.value.A.score, answer.value.A.comment) == (90, "said ? of A")
    assert answer.replies[0]["text"].startswith("? {")


FINAL = {
    "400": (body(b"no such model", status=400), 1, "HTTP 400: no such model"),
    "a redirect": (
        body(b"", status=307, Location="http://127.0.0.1:1/"),
        1,
        "HTTP 307: a redirect to 127.0.0.1, which is not followed",
    ),
    "500 every time": (body(b"oops", status=500), 4, "HTTP 500: oops; 4 attempts"),
    "hung up every time": (hang_up, 4, "4 attempts"),
    "wrong content type": (body(b"<html>", kind="text/html"), 1, "content type is text/html"),
    "gzip in gzip": (
        body(gzip.compress(gzip.compress(bytes(10**6))), Content_Encoding="gzip, gzip"),
        1,
        "the content encoding 'gzip, gzip', which is not read",
    ),
    "gzip that is none": (body(b"{}", Content_Encoding="gzip"), 1, "not in its content encoding, gzip"),
    "a flood": (flood, 1, "longer than 2,000,000 bytes"),
    "a wait beyond the deadline": (body(b"", status=429, Retry_After="3600"), 1, "would miss the deadline"),
    "a refusal": (
        body(b'{"choices": [{"message": {"content": null, "refusal": "I will not"}}]}'),
        1,
        "refused to answer",
    ),
    "empty choices every time": (body(b'{"choices": []}'), 2, "no choice with a message"),
}


@pytest.mark.parametrize(("bad", "requests", "reason"), FINAL.values(), ids=FINAL)
def test_permanent_failures_end_with_a_reason(bad, requests, reason):
    with chat_server(bad) as server:
        answer = asked(server)
    assert answer.value is None
    assert reason in answer.reason
    assert len(server.questions) == requests


FITS = json.dumps({"A": {"comment": "left arm", "score": 61.5}, "B": {"comment": "", "score": 0}})
DRAFT = json.dumps({"A": {"comment": "draft", "score": 1}, "B": {"comment": "draft", "score": 2}})
THOUGHT_AND_ANSWERED = {
    "tags": completion(f"<think>{DRAFT}</think>{FITS}"),
    "a tag that the template opened": completion(f"{DRAFT}\n</think>\n\n{FITS}"),
    "reasoning_content": completion(FITS, reasoning_content=DRAFT),
    "reasoning": completion(FITS, reasoning=DRAFT),
    "parts": completion(
        [{"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]}, {"type": "text", "text": FITS}]
    ),
    "thinking blocks": completion(FITS, thinking_blocks=[{"type": "thinking", "thinking": DRAFT}]),
    "the answer ended before the limit": completion(f"<think>{DRAFT}</think>{FITS} I could add", "length"),
}


@pytest.mark.parametrize("answer", THOUGHT_AND_ANSWERED.values(), ids=THOUGHT_AND_ANSWERED)
def test_thinking_is_kept_for_the_trace_and_never_parsed(answer):
    with chat_server(body(answer)) as server:
        result = asked(server)
    assert (result.value.A.score, result.value.A.comment) == (61.5, "left arm")
    (record,) = result.replies
    assert record["thinking"] == DRAFT
    assert "draft" not in record["text"]


ONLY_THOUGHT = {
    "cut off in its tags": (
        completion(f"<think>{DRAFT}", "length"),
        "cut off at 7 tokens, all of them thinking",
    ),
    "cut off beside the content": (
        completion(None, "length", reasoning_content=DRAFT),
        "cut off at 7 tokens, all of them thinking; raise max_tokens",
    ),
    "cut off in the answer": (
        completion(f"<think>{DRAFT}</think>{FITS[:-9]}", "length"),
        "cut off at 7 tokens; raise max_tokens",
    ),
    "no answer": (completion("", reasoning=DRAFT), "thinking without an answer"),
}


@pytest.mark.parametrize(("answer", "reason"), ONLY_THOUGHT.values(), ids=ONLY_THOUGHT)
def test_a_draft_never_becomes_a_score(answer, reason):
    with chat_server(body(answer)) as server:
        result = asked(server)
    assert result.value is None
    assert reason in result.reason
    assert [reason in record["malformed"] for record in result.replies] == [True, True]
    assert "draft" not in server.questions[1]["messages"][0]["content"][-2]["text"]  # the repair request


WITHHELD = {
    "a content filter": (completion(FITS[:20], "content_filter"), "the content filter of the server stopped"),
    "a refusal": (completion(None, refusal="I will not."), "the model refused to answer: I will not."),
    "a refusal in parts": (
        completion([{"type": "refusal", "refusal": "No."}]),
        "the model refused to answer: No.",
    ),
}


@pytest.mark.parametrize(("answer", "reason"), WITHHELD.values(), ids=WITHHELD)
def test_a_withheld_answer_is_named_and_not_repaired(answer, reason):
    with chat_server(body(answer)) as server:
        result = asked(server)
    assert len(server.questions) == 1
    assert (result.failure.kind, result.failure.task) == ("unanswerable", "score")
    assert reason in result.reason
    assert result.replies[0]["error"] == result.reason


ERRORS = {
    "OpenAI's": ({"error": {"message": "overloaded", "code": 503}}, "overloaded", "unavailable"),
    "vLLM's": ({"object": "error", "message": "too long", "code": 400}, "too long", "unanswerable"),
    "Ollama's": ({"error": "model not found"}, "model not found", "unavailable"),
    "FastAPI's": ({"detail": "no such route"}, "no such route", "unavailable"),
    "a choice's": (
        {"choices": [{"error": {"message": "provider down", "code": 502}, "message": {"content": ""}}]},
        "provider down",
        "unavailable",
    ),
    "beside choices": (
        {"choices": [{"message": {"content": ""}}], "error": "upstream provider overloaded"},
        "upstream provider overloaded",
        "unavailable",
    ),
    "without a message": ({"error": {}}, "without a message", "unavailable"),
}


@pytest.mark.parametrize(("said", "message", "kind"), ERRORS.values(), ids=ERRORS)
def test_an_error_with_status_200_is_named(said, message, kind):
    with chat_server(body(json.dumps(said).encode())) as server:
        result = asked(server)
    assert len(server.questions) == 1
    assert result.reason.endswith(f"the server answered with an error: {message}")
    assert result.failure.kind == kind


def test_the_message_of_an_error_is_quoted_without_its_envelope():
    refusal = json.dumps({"error": {"message": "max_tokens is too large", "type": "invalid"}}).encode()
    with chat_server(body(refusal, status=400)) as server:
        assert asked(server).reason.endswith("HTTP 400: max_tokens is too large")


@pytest.mark.parametrize("slow", [drip, drip_headers, silent])
def test_every_question_ends_at_its_deadline(slow):
    with chat_server(slow) as server:
        answer = asked(server, deadline_s=0.2)
    assert answer.reason.endswith("TimeoutError: no complete answer within 0.2 s")


def test_the_limit_of_concurrent_requests():
    running, most, lock = 0, 0, threading.Lock()

    def counted(handler, question):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        good(handler, question)
        with lock:
            running -= 1

    with chat_server(counted) as server:
        backend = backend_at(server, concurrency=2)
        threads = [threading.Thread(target=ask, args=(backend, "score", [], MODEL, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.questions) == 8
    assert most <= 2


def test_retries_count_against_the_budget():
    with chat_server(body(b"", status=500)) as server:
        backend = backend_at(server)
        backend.budget = Budget(2)
        answer = ask(backend, "score", [], MODEL, 0)
    assert len(server.questions) == 2
    assert "the budget of 2 calls is spent" in answer.reason


def test_keys_and_pictures_quoted_by_the_server_are_removed():
    def echo(text: str, question: dict) -> str:
        (url,) = [p["image_url"]["url"] for p in question["messages"][0]["content"] if "image_url" in p]
        return f"{KEY} {url}"

    def escaped(text: str, question: dict) -> str:
        return f"{''.join(f'{chr(92)}u{ord(letter):04x}' for letter in KEY)} {text[:0]}"

    for act in (parrot, saying(echo), saying(escaped)):
        with chat_server(act) as server:
            answer = asked(server, picture())
        text = json.dumps([answer.reason, answer.replies])
        assert answer.value is None
        assert "[key]" in text
        assert KEY not in text
        assert "/9j/4AAQ" not in text  # how every base64 JPEG begins


def test_an_unreachable_server_is_a_reason():
    with chat_server(good) as server:
        pass
    answer = asked(server)
    assert answer.value is None
    assert "4 attempts" in answer.reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("soon", None),
        ("-3", None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after_s(header) == seconds


def test_retry_after_with_a_future_date():
    header = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after_s(header) == pytest.approx(100, abs=10)


BAD_SPECS = {
    "openai:": "names a model and its server",
    "openai:name@localhost:8000/v1": "names a model and its server",
    "openai:name@http://": "http://host:port/v1",
    "openai:name@http://host:secret/v1": "port number up to 65535",
    "openai:name@http://host:65536/v1": "port number up to 65535",
    "openai:name@http://[::1/v1": "http://host:port/v1",
    "openai:name@http://me:secret@host/v1": "contains no user, password or query",
    "openai:name@http://host/v1?api_key=secret": "contains no user, password or query",
}


@pytest.mark.parametrize(("spec", "sentence"), BAD_SPECS.items())
def test_an_invalid_spec_is_refused_without_quoting_secrets(spec, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        load_backend(spec)
    assert "secret" not in str(refused.value)


def test_the_default_server_and_its_key(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu-box:8000/v1/")
    assert load_backend("openai:m").name == "openai:m@http://gpu-box:8000/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        load_backend("openai:m")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-k\u00e4y")
    with pytest.raises(ValueError, match="OPENAI_API_KEY has characters that a header cannot have"):
        load_backend("openai:m")


@pytest.mark.parametrize("setting", ["deadline_s=nan", "deadline_s=inf", "backoff_s=-1", "temperature=nan"])
def test_numbers_that_no_request_can_have_are_refused(setting):
    name, value = setting.split("=")
    with pytest.raises(ValueError, match=rf"{name} must be .*, not "):
        load_backend("openai:m@http://127.0.0.1:9/v1", **{name: value})


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8000/v1", ""),
        ("http://localhost/v1", ""),
        ("http://[::1]:8000/v1", ""),
        ("http://10.0.0.7:8000/v1", "10.0.0.7:8000"),
        ("https://api.openai.com/v1", "api.openai.com"),
    ],
)
def test_the_host_that_receives_photographs(url, host):
    assert load_backend(f"openai:m@{url}").capabilities.sends_to == host


@pytest.mark.parametrize("setting", [{"deadline_s": "0"}, {"deadline": "3"}, {"max_images": "many"}])
def test_an_invalid_setting_is_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        load_backend("openai:m@http://127.0.0.1:1/v1", **setting)


def test_the_revision_depends_on_settings_that_affect_answers():
    def revision(**settings):
        return load_backend("openai:m@http://127.0.0.1:1/v1", **settings).revision

    assert revision() == revision(deadline_s=5, concurrency=3)
    assert (
        len({revision(), revision(temperature=0.5), revision(image_side_px=512), revision(max_tokens=9)}) == 4
    )
