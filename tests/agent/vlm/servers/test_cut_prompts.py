"""Prompts that a server cuts without a word."""

import json

import pytest

from agent.vlm import TextPart
from agent.vlm.servers.cut_prompts import prompt_cut
from tests.agent.vlm.chat_server import chat_server, fitting
from tests.agent.vlm.servers.questions import ask_score, backend_at

EVIDENCE = TextPart("hypothesis A: 12.5 mm, " * 2000)


def reads(tokens: int | None):
    """A server that answers well and reports so many tokens of the prompt."""

    def act(handler, question):
        choice = {"message": {"content": json.dumps(fitting(question))}, "finish_reason": "stop"}
        usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "completion_tokens": 7}}
        handler.send(json.dumps({"choices": [choice], **usage}).encode())

    return act


@pytest.mark.parametrize(
    ("profile", "advice"),
    [("ollama", "OLLAMA_CONTEXT_LENGTH"), ("llamacpp", "--ctx-size"), ("generic", "longer")],
)
def test_a_cut_prompt_is_said_once_and_kept_in_every_record(profile, advice, caplog):
    with chat_server(reads(2050)) as server:
        backend = backend_at(server, profile=profile)
        answers = [ask_score(backend, EVIDENCE, seed=seed) for seed in (3, 4)]
    assert all("the server read only 2,050 tokens" in answer.replies[0]["warning"] for answer in answers)
    (warning,) = caplog.messages
    assert "it cuts prompts" in warning
    assert advice in warning


@pytest.mark.parametrize("tokens", [None, 0, 20_000])
def test_a_whole_prompt_and_a_server_without_counts_are_left_alone(tokens, caplog):
    with chat_server(reads(tokens)) as server:
        answer = ask_score(backend_at(server), EVIDENCE)
    assert answer.value.A.score == 90
    assert "warning" not in answer.replies[0]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("chars", "tokens", "cut"),
    [
        (30_000, 2050, True),
        (30_000, 5000, False),
        (2999, 1, False),
        (5_286, 4096, True),
        (5_286, 4097, False),
    ],
)
def test_the_limit(chars, tokens, cut):
    assert bool(prompt_cut(chars, tokens, "raise it")) is cut
