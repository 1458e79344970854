"""`meshcritic check-vlm` with a local server."""

import json

import pytest

from agent.tracing.reading import read_trace
from eval.report.trace.pictures import PictureIndex
from tests.agent.vlm.chat_server import body, chat_server, completion, good, scoring, task_of
from tests.command import call


def test_lost_questions_are_printed(tmp_path, tiny_policy, monkeypatch, capsys):
    def without_tags(handler, question):
        act = body(completion("well")) if task_of(question) == "tag" else good
        act(handler, question)

    tiny_policy.save_pretrained(tmp_path / "policy")
    with chat_server(without_tags) as server:
        words = ("--scenes", 1, "--policy", tmp_path / "policy", "--out", tmp_path / "out")
        code, _, err = call(monkeypatch, capsys, "check-vlm", f"openai:m@{server.url}", *words)
    assert code == 0
    lost = "4 of 5 questions were answered; lost tag: malformed after one repair: "
    assert err.splitlines()[-1].startswith(lost)
    (critique,) = read_trace(tmp_path / "out").critiques
    assert (
        len(PictureIndex(tmp_path / "out").of(critique.trace)) == 1
    )  # the sheet, for `meshcritic trace --html`


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (scoring(lambda answer: {label: {**one, "score": 100} for label, one in answer.items()}), "no order"),
        (good, "follow the labels"),
    ],
    ids=["equal", "label order"],
)
def test_scores_that_say_nothing_are_named(act, said, tmp_path, tiny_policy, monkeypatch, capsys):
    """SmolLM2 gave all six bodies 100; `good` gives A 90, B 80 and so on."""
    tiny_policy.save_pretrained(tmp_path / "policy")
    with chat_server(act) as server:
        words = (f"openai:m@{server.url}", "--scenes", 1, "--policy", tmp_path / "policy")
        _, _, err = call(monkeypatch, capsys, "check-vlm", *words)
        _, out, _ = call(monkeypatch, capsys, "check-vlm", *words, "--json")
    sentence = err.splitlines()[-1].removeprefix("1 of 1 groups: ")
    assert said in sentence
    assert json.loads(out)["scenes"][0]["degeneracy"] == sentence
