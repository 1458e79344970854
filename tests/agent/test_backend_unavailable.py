"""Which failures leave scores at None, and which raise BackendUnavailable."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.types import BackendUnavailable, QuestionCounts, QuestionFailure, lost_questions, why_unscored
from agent.vlm import EmbeddedCritic, MalformedReply, Unanswerable, load_backend
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from tests.agent.critique_case import GROUP, group, make_agent, sample, spoiled_group
from tests.agent.vlm.chat_server import body, chat_server, hang_up


class Failing(EmbeddedCritic):
    """Raises at one task, and finds one score uncertain, so that every task is asked."""

    def __init__(self, task: str, error: Exception) -> None:
        self.task, self.error = task, error

    def generate(self, parts, schema, seed):
        if schema["title"] == self.task:
            raise self.error
        reply = super().generate(parts, schema, seed)
        if schema["title"] != "reflect":
            return reply
        doubts = {**json.loads(reply.text), "A": {"uncertain": True, "reason": "on principle"}}
        return replace(reply, text=json.dumps(doubts))


def scores(backend) -> list[float | None]:
    return make_agent(backend).score(sample(), group(spoiled_group()))


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise"])
def test_an_unanswered_question_anywhere_raises(task):
    with pytest.raises(BackendUnavailable, match=r"^embedded failed: ConnectionError: gone$"):
        scores(Failing(task, ConnectionError("gone")))


@pytest.mark.parametrize("error", [Unanswerable("too long"), MalformedReply("no answer")])
def test_an_unanswerable_question_does_not_raise(error):
    assert scores(Failing("score", error)) == [None] * GROUP
    assert None not in scores(Failing("reflect", error))  # the first scores stay


def test_a_critique_has_the_reason_and_does_not_raise():
    critique = make_agent(Failing("score", ConnectionError("gone"))).critique(
        sample(), group(spoiled_group())
    )
    assert critique.scores == (None,) * GROUP
    assert critique.reasons[0] == "embedded failed: ConnectionError: gone"


@pytest.mark.parametrize("task", ["tag", "reflect", "revise"])
def test_a_lost_question_beside_the_scores_is_counted_and_named(task):
    critique = make_agent(Failing(task, MalformedReply("no answer"))).critique(
        sample(), group(spoiled_group())
    )
    assert None not in critique.scores
    assert critique.questions.lost == 1
    (failure,) = critique.failures
    assert (failure.task, failure.kind) == (task, "malformed")
    asked = critique.questions.asked
    assert lost_questions(critique.questions, critique.failures) == (
        f"{asked - 1} of {asked} questions were answered; lost {task}: malformed after one repair: no answer"
    )


def test_a_reason_of_several_questions_is_said_once():
    failures = [QuestionFailure("unavailable", "gone", task) for task in ("tag", "score", "score")]
    failures.append(QuestionFailure("malformed", "no answer", "reflect"))
    counts = QuestionCounts(asked=5, answered=1)
    sentence = lost_questions(counts, failures)
    assert sentence == "1 of 5 questions were answered; lost tag, score x 2: gone; reflect: no answer"
    critique = replace(
        make_agent().critique(sample(), group(spoiled_group())),
        scores=(None, None), reasons=("gone", "gone"), questions=counts, failures=tuple(failures),
    )  # fmt: skip
    assert why_unscored([critique]) == (
        "no hypothesis got a score: gone (4 of 5 questions lost: tag, score x 2; reflect: no answer)"
    )


def test_answers_before_the_end_of_a_budget_are_cached(tmp_path):
    """A critique asks at least five questions; the budget ends at the third, and the next run asks for the rest."""
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


@pytest.mark.parametrize(("act", "unavailable"), SERVERS.values(), ids=SERVERS)
def test_the_kind_of_failure_of_each_response(act, unavailable):
    with chat_server(act) as server:
        backend = load_backend(f"openai:m@{server.url}", attempts=1)
        if unavailable:
            with pytest.raises(BackendUnavailable):
                scores(backend)
        else:
            assert scores(backend) == [None] * GROUP
