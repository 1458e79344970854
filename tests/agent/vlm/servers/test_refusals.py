"""A server that refuses a field is asked again without it, once, and from then on."""

import json

import pytest

from tests.agent.vlm.chat_server import chat_server, good, schema_of
from tests.agent.vlm.servers.questions import ask_score, backend_at


def refuse(handler, message: object, status: int = 400) -> None:
    handler.send(json.dumps(message).encode(), status=status)


def refuses_in_schema(*words: str):
    """A server that refuses a schema with any of these words, as OpenAI's strict mode does."""

    def act(handler, question):
        found = [word for word in words if f'"{word}"' in json.dumps(question.get("response_format"))]
        message = f"Invalid schema for response_format 'score': '{(found or [''])[0]}' is not permitted."
        refuse(handler, {"error": {"message": message}}) if found else good(handler, question)

    return act


def refuses_field(field: str, message: object, status: int = 400):
    return lambda handler, question: (
        refuse(handler, message, status) if field in question else good(handler, question)
    )


def test_limits_are_sent_in_the_schema():
    with chat_server(good) as server:
        ask_score(backend_at(server))
    verdict = schema_of(server.questions[0])["$defs"]["Verdict"]["properties"]
    assert (verdict["score"]["minimum"], verdict["score"]["maximum"]) == (0, 100)
    assert verdict["comment"]["maxLength"] == 400


REFUSED = {
    "minimum": (refuses_in_schema("minimum"), {}, "refuses limits in the schema"),
    "maxLength": (refuses_in_schema("maxLength"), {}, "refuses limits in the schema"),
    "two limits": (refuses_in_schema("maximum", "maxLength"), {}, "refuses limits in the schema"),
    "a seed": (
        refuses_field("seed", {"error": {"message": "Unsupported parameter: 'seed'"}}),
        {},
        "refuses seed; it is asked without it",
    ),
    "a temperature": (
        refuses_field(
            "temperature", {"error": {"message": "'temperature' does not support 0 with this model."}}
        ),
        {},
        "refuses temperature",
    ),
    "a field of extra_body": (
        refuses_field(
            "top_k",
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs"}]},
            422,
        ),
        {"extra_body": "{top_k: 20}"},
        "refuses top_k",
    ),
    "the name of the token limit": (
        refuses_field(
            "max_tokens",
            {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}},
        ),
        {"max_tokens": 500},
        "refuses max_tokens; it is asked with max_completion_tokens",
    ),
    "the format": (
        refuses_field(
            "response_format", {"detail": "Unexpected fields in the request: {'response_format'}"}, 422
        ),
        {},
        "refuses response_format; it is asked without it",
    ),
}


@pytest.mark.parametrize(("act", "settings", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_refused_field_is_left_out_from_then_on_and_named(act, settings, sentence, caplog):
    with chat_server(act) as server:
        backend = backend_at(server, **settings)
        answers = [ask_score(backend, seed=seed) for seed in (3, 4)]
    assert [answer.value.A.score for answer in answers] == [90, 90]
    assert [answer.replies[0]["retries"] for answer in answers] == [1, 0]
    assert len(server.questions) == 3
    assert '"maxLength": 400' in server.questions[-1]["messages"][0]["content"][-1]["text"]
    (warning,) = caplog.messages
    assert f"(profile generic): the server {sentence}" in warning


def test_the_token_limit_keeps_its_value_under_its_other_name():
    act, settings, _ = REFUSED["the name of the token limit"]
    with chat_server(act) as server:
        ask_score(backend_at(server, **settings))
    assert server.questions[-1]["max_completion_tokens"] == 500


def test_a_token_limit_that_is_too_large_stays_refused():
    message = {"error": {"message": "'max_tokens' is too large: 500. The maximum context length is 400"}}
    with chat_server(refuses_field("max_tokens", message)) as server:
        answer = ask_score(backend_at(server, max_tokens=500))
    assert "is too large" in answer.reason
    assert len(server.questions) == 1


def test_a_format_that_a_server_lacks_becomes_one_that_it_has(caplog):
    def act(handler, question):
        if question["response_format"]["type"] == "json_schema":
            refuse(handler, {"error": {"message": "response_format type must be 'text' or 'json_object'"}})
        else:
            good(handler, question)

    with chat_server(act) as server:
        backend = backend_at(server)
        assert [ask_score(backend).value.A.score for _ in range(2)] == [90, 90]
    formats = [question["response_format"]["type"] for question in server.questions]
    assert formats == ["json_schema", "json_object", "json_object"]
    assert [message.partition("the server ")[2] for message in caplog.messages] == [
        "refuses the format json_schema; it is asked for json_object"
    ]


def test_a_schema_that_is_refused_without_limits_too_is_sent_as_text_only(caplog):
    with chat_server(refuses_in_schema("type", "title")) as server:
        backend = backend_at(server)
        assert [ask_score(backend).value.A.score for _ in range(2)] == [90, 90]
    assert ["response_format" in question for question in server.questions] == [True, True, False, False]
    (warning,) = caplog.messages
    assert "refuses response_format" in warning


def test_several_refused_fields_are_left_out_one_after_the_other():
    def act(handler, question):
        refused = [field for field in ("seed", "temperature") if field in question]
        refuse(handler, {"error": {"message": f"Unknown field: {refused[0]}"}}) if refused else good(
            handler, question
        )

    with chat_server(act) as server:
        answer = ask_score(backend_at(server))
    assert (answer.value.A.score, answer.replies[0]["retries"]) == (90, 2)


@pytest.mark.parametrize("message", ["no such model", "this model's maximum context length is 4096 tokens"])
def test_another_refusal_is_not_repeated(message, caplog):
    with chat_server(lambda handler, question: refuse(handler, {"error": {"message": message}})) as server:
        answer = ask_score(backend_at(server))
    assert answer.reason.endswith(f"HTTP 400: {message}")
    assert len(server.questions) == 1
    assert not caplog.messages


def test_a_change_that_does_not_help_is_not_remembered(caplog):
    with chat_server(lambda handler, question: refuse(handler, {"error": "the seed is unlucky"})) as server:
        backend = backend_at(server)
        assert all("the seed is unlucky" in ask_score(backend).reason for _ in range(2))
    assert ["seed" in question for question in server.questions] == [True, False, True, False]
    assert not caplog.messages


def test_requests_after_a_refusal_count_against_the_budget():
    act, settings, _ = REFUSED["a seed"]
    with chat_server(act) as server:
        backend = backend_at(server, **settings)
        ask_score(backend)
    assert backend.budget.calls == 2
