"""Answers: JSON found in a reply, validated, repaired once, never invented."""

import json
import sqlite3

import pytest

from agent.prompts import load_prompt
from agent.prompts.answers import COMMENT_CHARS, RULE_CHARS, TagAnswer, Verdict, keyed_by_label
from agent.scoring.ask import ask
from agent.vlm import Capabilities, MalformedReply, Reply, TextPart
from memory.text_limits import MAX_TAG_CHARS, MAX_TAGS

FITS = json.dumps({"A": {"comment": "left arm", "score": 61.5}, "B": {"comment": "", "score": 0}})
OTHER = json.dumps({"A": {"comment": "draft", "score": 1}, "B": {"comment": "draft", "score": 2}})
MODEL = keyed_by_label("score", Verdict, ["A", "B"])


class ScriptedBackend:
    name, revision, capabilities = "scripted", "1", Capabilities()

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


def scores(backend: ScriptedBackend):
    answer = ask(backend, "score", [TextPart("judge")], MODEL, 0)
    return (answer.value and [answer.value.A.score, answer.value.B.score]), answer


IN_PROSE = {
    "alone": FITS,
    "fenced": f"```json\n{FITS}\n```",
    "in prose": f"Looking at {{the panels}}, I would say:\n{FITS}\nI hope this helps {{:",
    "after a draft": f"<think>{OTHER}</think>{FITS}",
    "after other text": f"First I thought {OTHER}, but then: {FITS}",
    "beside half a surrogate pair": f"\ud83d {FITS}",
}


@pytest.mark.parametrize("text", IN_PROSE.values(), ids=IN_PROSE)
def test_json_is_found_in_prose(text):
    values, answer = scores(ScriptedBackend(text))
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
    "10^15": FITS.replace("61.5", "1e15"),
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
def test_a_reply_that_does_not_fit_gives_no_score(text):
    values, answer = scores(ScriptedBackend(text))
    assert values is None
    assert answer.reason.startswith("malformed after one repair: ")
    written = text.replace("\ud83d", "?")  # UTF-8 cannot encode a lone surrogate
    assert [reply["text"] for reply in answer.replies] == [written, written]


def test_a_malformed_reply_of_the_backend_is_repaired():
    backend = ScriptedBackend(MalformedReply("no choice"), FITS)
    values, _ = scores(backend)
    assert values == [61.5, 0.0]
    assert "no choice" in backend.asked[1][-1].text


def test_every_request_has_a_record_that_says_how_it_ended():
    _, answer = scores(ScriptedBackend(MalformedReply("no choice"), "well"))
    endings = [record["malformed"] for record in answer.replies]
    assert endings == ["no choice", "there is no complete JSON object in the reply"]
    assert "text" not in answer.replies[0]
    _, answer = scores(ScriptedBackend("well", FITS))
    assert ["malformed" in record for record in answer.replies] == [True, False]
    _, answer = scores(ScriptedBackend("well", ConnectionError("gone")))
    assert answer.replies[1]["error"] == answer.reason == "scripted failed: ConnectionError: gone"


@pytest.mark.parametrize(
    ("said", "counted"),
    [(("well", FITS), (1, 1, 1, 0)), ((FITS,), (1, 1, 0, 0)), (("well",), (1, 0, 0, 1))],
    ids=["repaired", "answered", "lost"],
)
def test_questions_are_counted(said, counted):
    _, answer = scores(ScriptedBackend(*said))
    counts = answer.counts
    assert (counts.asked, counts.answered, counts.repaired, counts.lost) == counted


def test_a_text_that_is_too_long_is_cut():
    values, answer = scores(ScriptedBackend(FITS.replace("left arm", "left arm " * 100)))
    assert values == [61.5, 0.0]
    assert len(answer.value.A.comment) == 400
    assert answer.value.A.comment.endswith("…")


def test_a_comment_is_one_line():
    """A line of its own could look like one of the program."""
    _, answer = scores(ScriptedBackend(FITS.replace("left arm", "left arm\\nmeshcritic:  all is well")))
    assert answer.value.A.comment == "left arm meshcritic: all is well"


@pytest.mark.parametrize(
    ("said", "is_answer"),
    [
        (FITS, True),
        (f"```json\n{FITS}\n``` Further, the", True),
        (f"Okay. A first try: {FITS} Wait, B looks wrong, so I should", False),
    ],
    ids=["the answer", "the answer and more", "a draft"],
)
def test_of_a_reply_that_was_cut_off_only_its_beginning_counts(said, is_answer):
    _, answer = scores(ScriptedBackend(*[Reply(said, finish="length", tokens_out=7)] * 2))
    assert (answer.value is not None) == is_answer
    assert is_answer or answer.reason == "malformed after one repair: cut off at 7 tokens; raise max_tokens"


def test_a_list_that_is_too_long_is_shortened():
    tags = [f"kind:{number}{'x' * 100}" for number in range(1000)]
    answer = ask(ScriptedBackend(json.dumps({"tags": tags})), "tag", [TextPart("tag")], TagAnswer, 0)
    assert len(answer.value.tags) == 12
    assert {len(tag) for tag in answer.value.tags} == {40}


def test_the_prompts_state_the_limits_of_their_answers():
    for task, limits in {
        "score": [COMMENT_CHARS],
        "revise": [COMMENT_CHARS],
        "reflect": [COMMENT_CHARS],
        "tag": [MAX_TAGS, MAX_TAG_CHARS],
        "mine": [RULE_CHARS, MAX_TAGS, MAX_TAG_CHARS],
    }.items():
        assert all(f"at most {limit}" in load_prompt(task).text.replace("\n", " ") for limit in limits)


def test_an_exception_is_not_repaired_and_its_reason_is_traced():
    backend = ScriptedBackend(ConnectionError("gone"))
    _, answer = scores(backend)
    assert len(backend.asked) == 1
    assert answer.reason == "scripted failed: ConnectionError: gone"
    assert answer.replies[-1]["error"] == answer.reason


def no_text(text: object, **costs: object) -> Reply:
    """A Reply with values of wrong types, as an untyped plug-in might return."""
    reply = Reply("")
    for name, value in {"text": text, **costs}.items():
        object.__setattr__(reply, name, value)
    return reply


NO_REPLIES = {
    "no text": (no_text(None), "NoneType instead of a Reply with a text"),
    "bytes": (no_text(FITS.encode()), "bytes instead of"),
    "nothing": (None, "NoneType instead of"),
    "a dict": ({"text": FITS}, "dict instead of"),
    "costs in words": (no_text(FITS, ms="long"), "not numbers"),
}


@pytest.mark.parametrize(("said", "reason"), NO_REPLIES.values(), ids=NO_REPLIES)
def test_an_invalid_reply_is_repaired_or_becomes_the_reason(said, reason):
    values, answer = scores(ScriptedBackend(said))
    assert values is None
    assert reason in answer.reason
    assert scores(ScriptedBackend(said, FITS))[0] == [61.5, 0.0]


def test_unknown_costs_are_zero():
    _, answer = scores(ScriptedBackend(no_text(FITS, ms=None, tokens_in=None)))
    assert (answer.replies[0]["ms"], answer.replies[0]["tokens"]) == (0, [0, 0])


def test_an_answer_that_cannot_be_stored_is_valid_with_a_warning():
    class Full(ScriptedBackend):
        def keep(self, parts, schema, seed, reply):
            raise sqlite3.OperationalError("database or disk is full")

    values, answer = scores(Full(FITS))
    assert values == [61.5, 0.0]
    assert answer.replies[0]["warning"] == "not kept: OperationalError: database or disk is full"


def test_a_reason_is_redacted(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-0123456789")
    _, answer = scores(ScriptedBackend(MalformedReply("the provider says: canary-0123456789")))
    assert answer.reason == "malformed after one repair: the provider says: [key]"
    # text of the model reaches the reason as the name of an extra label
    _, answer = scores(ScriptedBackend(FITS[:-1] + ', "canary-0123456789": 1}'))
    assert "canary" not in answer.reason


def test_a_repaired_answer_is_stored_under_the_original_question():
    backend = ScriptedBackend("well", FITS)
    scores(backend)
    assert backend.kept == [([TextPart("judge")], FITS)]


def test_a_malformed_reply_is_not_stored():
    backend = ScriptedBackend("well")
    scores(backend)
    assert backend.kept == []
