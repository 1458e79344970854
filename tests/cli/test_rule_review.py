"""A person decides in the terminal which mined rules are tried."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cli.rule_review import review_rules
from hmr.policy.policy import DiffusionPolicy
from tests.command import call

RULES = [
    {
        "id": "a1",
        "text": "Mind the knee.",
        "predicate": {"metric": "knee_deg", "comparison": ">", "threshold": 5.0},
    },
    {"id": "b2", "text": "Mind the [hand].", "predicate": None},
    {"id": "c3", "text": "Mind the hat.", "predicate": None},
]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [("\n", ["a1", "b2", "c3"]), ("0 2\n", ["b2"]), ("3\n-1\nall\n1 1\n", ["a1", "c3"]), ("0 1 2\n", [])],
)
def test_the_numbers_that_are_typed_retire(typed, kept, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert review_rules(RULES) == kept
    said = capsys.readouterr().err
    assert "0  Mind the knee. [knee_deg > 5]" in said
    assert "Mind the [hand]." in said
    assert said.count("is no number of a rule") == typed.count("\n") - 1


def test_no_answer_is_no_consent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("9\n"))
    with pytest.raises(ValueError, match="standard input ended before the review was answered"):
        review_rules(RULES)


def test_the_command_asks_where_it_is_told(
    tiny_policy: DiffusionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    tiny_policy.save_pretrained(tmp_path / "policy")
    reviewers = []

    def stop(*words: object, reviewer: object, **more: object) -> None:
        reviewers.append(reviewer)
        raise ValueError("enough")

    monkeypatch.setattr("eval.critics.exploration.explore_calibration", stop)
    words = ("explore", "--policy", tmp_path / "policy", "--out", tmp_path / "out")
    for more in ((), ("--review", "admit_rule")):
        call(monkeypatch, capsys, *words, *more)
    assert reviewers == [None, review_rules]
    for more, said in (
        (("--review", "scores"), "--review of an exploration takes admit_rule, not scores"),
        (("--review", "admit_rule", "--dry-run"), "--dry-run asks nobody"),
    ):
        code, _, err = call(monkeypatch, capsys, *words, *more)
        assert (code, said in err) == (2, True), err
