"""What counts as an answer: JSON inside whatever a model says about it, checked, repaired once, never guessed."""

import json

import pytest

from agent.vlm import Capabilities, MalformedReply, Reply, TextPart
from agent.vlm.answers import Verdict, keyed_by_label
from agent.vlm.ask import ask

FITS = json.dumps({"A": {"comment": "left arm", "score": 61.5}, "B": {"comment": "", "score": 0}})
OTHER = json.dumps({"A": {"comment": "draft", "score": 1}, "B": {"comment": "draft", "score": 2}})
MODEL = keyed_by_label("score", Verdict, ["A", "B"])


class Says:
    name, revision, capabilities = "says", "1", Capabilities()

    def __init__(self, *texts: str | Exception) -> None:
        self.texts, self.asked, self.kept = list(texts), [], []

    def generate(self, parts, schema, seed):
        self.asked.append(list(parts))
        said = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        if isinstance(said, Exception):
            raise said
        return Reply(said)

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
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_does_not_fit_becomes_no_number(text):
    values, answer = scores(Says(text))
    assert values is None
    assert answer.reason.startswith("malformed after one repair: ")
    assert [reply["text"] for reply in answer.replies] == [text, text]


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


def test_a_repaired_answer_is_kept_under_the_question_first_asked():
    backend = Says("well", FITS)
    scores(backend)
    assert backend.kept == [([TextPart("judge")], FITS)]


def test_what_never_fitted_is_not_kept():
    backend = Says("well")
    scores(backend)
    assert backend.kept == []
