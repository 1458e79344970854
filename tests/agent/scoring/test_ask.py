"""What counts as an answer: JSON inside whatever a model says about it, checked, repaired once, never guessed."""

import json
import sqlite3

import pytest

from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import ask
from agent.vlm import Capabilities, MalformedReply, Reply, TextPart

FITS = json.dumps({"A": {"comment": "left arm", "score": 61.5}, "B": {"comment": "", "score": 0}})
OTHER = json.dumps({"A": {"comment": "draft", "score": 1}, "B": {"comment": "draft", "score": 2}})
MODEL = keyed_by_label("score", Verdict, ["A", "B"])


class Says:
    name, revision, capabilities = "says", "1", Capabilities()

    def __init__(self, *texts: object) -> None:
        self.texts, self.asked, self.kept = list(texts), [], []

    def generate(self, parts, schema, seed):
        self.asked.append(list(parts))
        said = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        if isinstance(said, Exception):
            raise said
        return Reply(said) if isinstance(said, str) else said

    def keep(self, parts, schema, seed, reply):
        self.kept.append((list(parts), reply.text))


def scores(backend: Says):
    answer = ask(backend, "score", [TextPart("judge")], MODEL, 0)
    return (answer.value and [answer.value.A.score, answer.value.B.score]), answer


IN_PROSE = {
    "alone": FITS,
    "fenced": f"```json\n{FITS}\n```",
    "in prose": f"Looking at {{the panels}}, I would say:\n{FITS}\nI hope this helps {{:",
    "after a draft": f"<think>{OTHER}</think>{FITS}",
    "beside half a surrogate pair": f"\ud83d {FITS}",
}


@pytest.mark.parametrize("text", IN_PROSE.values(), ids=IN_PROSE)
def test_json_is_found_wherever_it_stands(text):
    values, answer = scores(Says(text))
    assert values == [61.5, 0.0]
    assert answer.reason == ""


BAD = {
    "prose": "the first is best",
    "cut off": FITS[:-5],
    "a missing label": '{"A": {"comment": "", "score": 3}}',
    "an extra label": FITS[:-1] + ', "C": {"comment": "", "score": 3}}',
    "a label twice": '{"A": {"comment": "", "score": 3}, ' + FITS[1:],
    "a score as text": FITS.replace("61.5", '"61.5"'),
    "NaN": FITS.replace("61.5", "NaN"),
    "infinity": FITS.replace("61.5", "1e999"),
    "101": FITS.replace("61.5", "101"),
    "-1": FITS.replace("61.5", "-1"),
    "null": FITS.replace("61.5", "null"),
    "true": FITS.replace("61.5", "true"),
    "a list": f"[{FITS[1:-1]}]",
    "nested too deep": '{"A":' * 100_000,
    "nothing": "",
    "half a surrogate pair": "\ud83d",
    "half a pair, escaped": FITS.replace("left arm", "\\ud83d"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_does_not_fit_becomes_no_number(text):
    values, answer = scores(Says(text))
    assert values is None
    assert answer.reason.startswith("malformed after one repair: ")
    written = text.replace("\ud83d", "?")  # UTF-8 has no half of a pair
    assert [reply["text"] for reply in answer.replies] == [written, written]


def test_an_answer_without_text_is_worth_the_repair():
    backend = Says(MalformedReply("no choice"), FITS)
    values, _ = scores(backend)
    assert values == [61.5, 0.0]
    assert "no choice" in backend.asked[1][-1].text


def test_an_error_is_not_asked_again_and_leaves_its_reason_in_the_trace():
    backend = Says(ConnectionError("gone"))
    _, answer = scores(backend)
    assert len(backend.asked) == 1
    assert answer.reason == "says failed: ConnectionError: gone"
    assert answer.replies[-1]["error"] == answer.reason


def no_text(text: object, **costs: object) -> Reply:
    """As a plug-in makes it, whose types nobody checks."""
    reply = Reply("")
    for name, value in {"text": text, **costs}.items():
        object.__setattr__(reply, name, value)
    return reply


NO_REPLIES = {
    "no text": (no_text(None), "NoneType in place of a Reply with a text"),
    "bytes": (no_text(FITS.encode()), "bytes in place of"),
    "nothing": (None, "NoneType in place of"),
    "a dict": ({"text": FITS}, "dict in place of"),
    "costs in words": (no_text(FITS, ms="long"), "no numbers"),
}


@pytest.mark.parametrize(("said", "reason"), NO_REPLIES.values(), ids=NO_REPLIES)
def test_what_is_no_reply_is_a_reason_and_worth_the_repair(said, reason):
    values, answer = scores(Says(said))
    assert values is None
    assert reason in answer.reason
    assert scores(Says(said, FITS))[0] == [61.5, 0.0]


def test_costs_that_a_backend_does_not_know_are_none():
    _, answer = scores(Says(no_text(FITS, ms=None, tokens_in=None)))
    assert (answer.replies[0]["ms"], answer.replies[0]["tokens"]) == (0, [0, 0])


def test_an_answer_that_cannot_be_kept_counts_with_a_warning():
    class Full(Says):
        def keep(self, parts, schema, seed, reply):
            raise sqlite3.OperationalError("database or disk is full")

    values, answer = scores(Full(FITS))
    assert values == [61.5, 0.0]
    assert answer.replies[0]["warning"] == "not kept: OperationalError: database or disk is full"


def test_what_was_wrong_with_a_reply_is_cleaned_before_it_becomes_a_reason(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-0123456789")
    _, answer = scores(Says(MalformedReply("the provider says: canary-0123456789")))
    assert answer.reason == "malformed after one repair: the provider says: [key]"
    # a model's own words reach the reason as the names of labels that nobody asked for
    _, answer = scores(Says(FITS[:-1] + ', "canary-0123456789": 1}'))
    assert "canary" not in answer.reason


def test_a_repaired_answer_is_kept_under_the_question_first_asked():
    backend = Says("well", FITS)
    scores(backend)
    assert backend.kept == [([TextPart("judge")], FITS)]


def test_what_never_fitted_is_not_kept():
    backend = Says("well")
    scores(backend)
    assert backend.kept == []
