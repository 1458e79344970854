"""Commands that ask many questions print how many were lost, and why."""

from __future__ import annotations

import pytest

from agent.scoring.tally import add_question
from agent.types import QuestionCounts, QuestionFailure
from cli.console import report_lost_questions
from tests.agent.vlm.chat_server import body, chat_server, completion, fair, task_of
from tests.command import call

LOST = QuestionFailure("unavailable", "HTTP 500: oops", "tag")
SENTENCE = "openai:m: 1 of 2 questions were answered; lost tag: HTTP 500: oops\n"


def ask_two() -> None:
    add_question("openai:m", QuestionCounts(1, 1), None)
    add_question("openai:m", QuestionCounts(1, 0), LOST)


def test_the_sentence_is_printed_at_the_end(capsys):
    with report_lost_questions():
        ask_two()
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == SENTENCE


def test_the_sentence_is_printed_after_a_failure(capsys):
    def run() -> None:
        with report_lost_questions():
            ask_two()
            raise ValueError("no scores")

    with pytest.raises(ValueError, match="no scores"):
        run()
    assert capsys.readouterr().err == SENTENCE


def test_nothing_is_printed_if_all_questions_were_answered(capsys):
    with report_lost_questions():
        add_question("openai:m", QuestionCounts(1, 1, 1), None)
    assert capsys.readouterr().err == ""


def without_tags(handler, question) -> None:
    act = body(completion("well")) if task_of(question) == "tag" else fair
    act(handler, question)


@pytest.mark.slow
def test_explore_critic_eval_and_align(tiny_policy, tmp_path, monkeypatch, capsys):
    tiny_policy.save_pretrained(tmp_path / "policy")
    words = ("--policy", tmp_path / "policy", "--images")
    with chat_server(without_tags) as server:
        spec = f"openai:m@{server.url}"
        memory = ("--memory", tmp_path / "explored" / "memory")
        commands = {
            "explore": (4, "--samples", 3, "--backend", spec),
            "critic-eval": (2, "--samples", 3, "--calibration", 4, *memory, "--backend", spec),
            "align": (2, "--group-size", 3, *memory, "--critic", spec),
        }
        for command, given in commands.items():
            out = ("--out", tmp_path / ("explored" if command == "explore" else command))
            code, _, err = call(monkeypatch, capsys, command, *words, *given, *out)
            assert code == 0, err
            assert f"{spec}: " in err
            assert "questions were answered; lost tag x " in err
