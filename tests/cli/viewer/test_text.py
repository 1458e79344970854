"""The panel's texts are HTML; what others wrote is escaped."""

from __future__ import annotations

import dataclasses

from cli.viewer.text import about_hypothesis, about_photo, css, score_legend
from hmr.render.overlay import score_color
from tests.cli.viewer.shown_photo import make_shown

SCRIPT = "<img src=x onerror=alert(1)>"


def test_comments_and_names_are_escaped():
    shown = make_shown()
    person = dataclasses.replace(shown.people[0], comments=(SCRIPT, "", ""))
    for text in (about_hypothesis(person, 0), about_photo(SCRIPT, shown)):
        assert "<img" not in text
        assert "&lt;img" in text


def test_a_score_has_its_colour():
    scored, unscored = make_shown().people
    assert "90.0" in about_hypothesis(scored, 1)
    assert css(score_color(90.0)) in about_hypothesis(scored, 1)
    assert "no score" in about_hypothesis(scored, 2)
    assert "no scores" in about_hypothesis(unscored, 1)
    assert css((1.0, 0.5, 0.0)) == "#ff8000"
    assert all(css(score_color(score)) in score_legend() for score in (0.0, 50.0, 100.0, None))
