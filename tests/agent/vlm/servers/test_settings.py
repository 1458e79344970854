"""Settings of a server, at the wire: text judges, fields, formats, headers, and what the revision covers."""

import json

import pytest

from agent.vlm import DataPart, ImagePart, TextPart, load_backend
from tests.agent.vlm.chat_server import body, chat_server, completion, good, schema_of
from tests.agent.vlm.servers.questions import ask_score, backend_at

SECRET = "tenant-0123456789"


def question_with(**settings) -> dict:
    with chat_server(good) as server:
        assert ask_score(backend_at(server, **settings)).value.A.score == 90
        (question,) = server.questions
    return question


def test_a_text_judge_gets_one_text():
    with chat_server(good) as server:
        backend = backend_at(server, images="false")
        assert not backend.capabilities.images
        ask_score(backend, TextPart("judge"), DataPart("tags", ["pose:bent"]))
        content = server.questions[0]["messages"][0]["content"]
    assert content.startswith('judge\n\n<tags>\n["pose:bent"]\n</tags>\n\nAnswer with one JSON object')


def test_a_picture_does_not_reach_a_text_judge():
    with chat_server(good) as server:
        ask_score(backend_at(server, images=False), TextPart("judge"), ImagePart(b"no png", "the photograph"))
        assert "photograph" not in str(server.questions[0]["messages"])


def test_seed_temperature_and_token_limit():
    question = question_with(
        send_seed="false", temperature=None, max_tokens="9", token_field="max_completion_tokens"
    )
    assert question["max_completion_tokens"] == 9
    assert not {"seed", "temperature", "max_tokens"} & set(question)


@pytest.mark.parametrize("kind", ["json_schema", "json_object", None])
def test_response_formats(kind):
    question = question_with(response_format=kind)
    assert question.get("response_format", {}).get("type") == kind
    assert schema_of(question)["title"] == "score"


@pytest.mark.parametrize("given", ["text", "file", "mapping"])
def test_extra_fields_of_the_body(given, tmp_path):
    extra = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}
    (tmp_path / "extra.yaml").write_text("top_k: 20\nchat_template_kwargs: {enable_thinking: false}\n")
    forms = {"text": json.dumps(extra), "file": f"@{tmp_path / 'extra.yaml'}", "mapping": extra}
    assert extra.items() <= question_with(extra_body=forms[given]).items()


def test_headers_come_from_the_environment_and_are_removed_from_answers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    monkeypatch.setenv("TENANT", SECRET)
    monkeypatch.setenv("BASIC", "Basic dXNlcjpwYXNz")
    with chat_server(body(completion(f"I saw {SECRET}"))) as server:
        answer = ask_score(backend_at(server, headers="{X-Tenant: TENANT, authorization: BASIC}"))
        sent = {name.lower(): value for name, value in server.headers.items()}
    assert (sent["x-tenant"], sent["authorization"]) == (SECRET, "Basic dXNlcjpwYXNz")
    assert answer.value is None
    assert "[key]" in answer.replies[0]["text"]
    assert SECRET not in json.dumps([answer.replies, answer.reason])


INVALID = {
    "no variable": ({"headers": "{X-Tenant: hunter2hunter2}"}, "that of X-Tenant is not set"),
    "a header of the connection": ({"headers": "{Host: TENANT}"}, "headers cannot hold 'Host'"),
    "no header": ({"headers": "{'X Tenant': TENANT}"}, "headers cannot hold 'X Tenant'"),
    "two lines": ({"headers": "{X-Tenant: TWO_LINES}"}, "characters that a header cannot have"),
    "a list": ({"extra_body": "[1]"}, "extra_body: .*must be a mapping"),
    "no YAML": ({"extra_body": "{hunter2hunter2"}, "extra_body: .*is not YAML or JSON"),
    "a field with a setting": ({"extra_body": "{seed: 3, model: x}"}, "cannot hold model, seed"),
    "a date": ({"extra_body": "{day: 2024-01-01}"}, "a value that JSON has not"),
    "not a number": ({"extra_body": "{top_p: .nan}"}, "a value that JSON has not"),
    "a format": ({"response_format": "xml"}, "response_format"),
    "a profile": ({"profile": "tgi"}, "profile"),
    "a flag": ({"images": None}, "images"),
}


@pytest.mark.parametrize(("settings", "sentence"), INVALID.values(), ids=INVALID)
def test_invalid_settings_are_refused_without_quoting_secrets(settings, sentence, monkeypatch):
    monkeypatch.setenv("TWO_LINES", "hunter2hunter2\nX-Other: 1")
    with pytest.raises(ValueError, match=sentence) as refused:
        load_backend("openai:m@http://127.0.0.1:1/v1", **settings)
    assert "hunter2" not in str(refused.value)


def test_a_missing_file_of_fields_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.yaml: there is no such file"):
        load_backend("openai:m@http://127.0.0.1:1/v1", extra_body=f"@{tmp_path / 'no.yaml'}")


def test_the_revision_covers_all_settings_that_change_answers(monkeypatch):
    monkeypatch.setenv("TENANT", SECRET)
    changes = [
        {}, {"images": False}, {"profile": "vllm"}, {"token_field": "max_tokens"}, {"response_format": None},
        {"response_format": "json_object"}, {"send_seed": False}, {"extra_body": "{top_k: 1}"},
        {"extra_body": "{top_k: 2}"}, {"headers": "{X-Tenant: TENANT}"},
    ]  # fmt: skip
    found = [load_backend("openai:m@http://127.0.0.1:1/v1", **change).revision for change in changes]
    assert len(set(found)) == len(changes)
    assert all(SECRET not in revision for revision in found)
