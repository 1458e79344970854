"""The lines of progress on the terminal."""

import io

from rich.console import Console

from agent.events import AnswerReceived, CritiqueFinished, NodeStarted, QuestionSent
from cli import live_critiques as live
from cli.live_critiques import GroupProgress, LiveCritiques
from tests.agent.critique_case import group, make_agent, sample, spoiled_group


def test_a_line_says_what_is_asked_how_long_and_the_tokens_so_far():
    progress = GroupProgress(started_s=100.0)
    for event in (
        NodeStarted("retrieve_rules"),
        QuestionSent("tag", "some/model", 1),
        AnswerReceived("tag", 20.0, 1200, 30, ""),
        NodeStarted("score"),
        QuestionSent("score", "some/model", 9),
    ):
        progress.add(event)
    assert progress.line(112.4) == "score, 1 of 2 answers, 1,200 tokens in, 30 out, 12 s"


def test_a_group_has_a_line_until_it_is_finished():
    first, second = sample("a"), sample("b")
    groups = LiveCritiques([first, second])
    groups(second, NodeStarted("score"))
    groups(first, NodeStarted("self_reflect"))
    assert [line.split(",")[0] for line in groups.lines().splitlines()] == [
        "person 0: self reflect",
        "person 1: score",
    ]
    agent = make_agent()
    groups(first, CritiqueFinished(agent.critique(first, group(spoiled_group()))))
    assert groups.lines().startswith("person 1")


def test_lines_are_for_terminals_only(monkeypatch):
    with live.live_critiques([sample()]) as listener:  # stderr of the tests is none
        assert listener is None
    terminal = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=terminal, force_terminal=True))
    with live.live_critiques([sample()]) as listener:
        assert listener is not None
        make_agent().critique(
            sample(), group(spoiled_group()), on_event=lambda event: listener(sample(), event)
        )
    with live.live_critiques([sample()], visible=False) as listener:
        assert listener is None
