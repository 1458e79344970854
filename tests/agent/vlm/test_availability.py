"""Which failures are a verdict on a group, and which only say that nobody answered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.vlm import EmbeddedCritic, MalformedReply, Unanswerable, load_backend
from agent.vlm.wrappers.availability import BackendUnavailable
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from tests.agent.critique_case import GROUP, group, make_agent, sample, spoiled_group
from tests.agent.vlm.chat_server import body, chat_server, hang_up


class Failing(EmbeddedCritic):
    """Raises at one task, and doubts one hypothesis, so that every task comes up."""

    def __init__(self, task: str, error: Exception) -> None:
        self.task, self.error = task, error

    def generate(self, parts, schema, seed):
        if schema["title"] == self.task:
            raise self.error
        reply = super().generate(parts, schema, seed)
        if schema["title"] != "reflect":
            return reply
        doubts = {**json.loads(reply.text), "A": {"doubt": True, "reason": "on principle"}}
        return replace(reply, text=json.dumps(doubts))


def scores(backend) -> list[float | None]:
    return make_agent(backend).score(sample(), group(spoiled_group()))


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise"])
def test_a_critique_that_lacks_an_answer_anywhere_has_no_scores_to_keep(task):
    with pytest.raises(BackendUnavailable, match=r"^embedded failed: ConnectionError: gone$"):
        scores(Failing(task, ConnectionError("gone")))


@pytest.mark.parametrize("error", [Unanswerable("too long"), MalformedReply("no answer")])
def test_a_question_that_cannot_be_answered_is_a_verdict(error):
    assert scores(Failing("score", error)) == [None] * GROUP
    assert None not in scores(Failing("reflect", error))  # the scores stand as they were first given


def test_who_looks_at_one_critique_sees_the_reason_and_no_error():
    critique = make_agent(Failing("score", ConnectionError("gone"))).critique(
        sample(), group(spoiled_group())
    )
    assert critique.scores == (None,) * GROUP
    assert critique.reasons[0] == "embedded failed: ConnectionError: gone"


def test_a_budget_that_ends_in_a_critique_leaves_its_answers_in_the_cache(tmp_path):
    """Five questions or more; the third is one too many, and the next run is asked for those that are missing."""
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        with pytest.raises(BackendUnavailable, match="the budget of 2 calls is spent"):
            scores(Cached(with_budget(EmbeddedCritic(), Budget(2)), cache))
        assert len(cache) == 2
        budget = Budget()
        assert scores(Cached(with_budget(EmbeddedCritic(), budget), cache)) == scores(EmbeddedCritic())
        assert budget.calls == len(cache) - 2


SERVERS = {
    "gone": (hang_up, True),
    "overloaded": (body(b"", status=503), True),
    "a wrong key": (body(b"", status=401), True),
    "a wrong address": (body(b"", status=404), True),
    "too long a question": (body(b"", status=400), False),
    "too large a question": (body(b"", status=413), False),
    "a refusal": (body(b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}'), False),
    "words": (body(b'{"choices": [{"message": {"content": "well"}}]}'), False),
}


@pytest.mark.parametrize(("act", "unheard"), SERVERS.values(), ids=SERVERS)
def test_what_a_server_says_is_told_apart(act, unheard):
    with chat_server(act) as server:
        backend = load_backend(f"openai:m@{server.url}", attempts=1)
        if unheard:
            with pytest.raises(BackendUnavailable):
                scores(backend)
        else:
            assert scores(backend) == [None] * GROUP
