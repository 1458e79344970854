"""What a writer of shards makes of rows that come from elsewhere, as Ray's actors send them."""

from __future__ import annotations

import pytest

from agent.types import BackendUnavailable
from rl.preferences.build import describe_set, draw_group, judge_group
from rl.preferences.shards import GroupShards, unavailable_reason
from tests.rl.preferences.test_build import FakePolicy, FakeScorer, build, contents, wild


class Deaf(FakeScorer):
    def score(self, sample, hypotheses):
        raise BackendUnavailable("nobody is there: ü")


def rows(scorer, samples, settings):
    return [judge_group(scorer, sample, draw_group(FakePolicy(), sample, settings)) for sample in samples]


def test_a_row_says_why_nobody_answered():
    settings = describe_set(FakePolicy(), FakeScorer(), 3, 0, 2, 1.0)
    (heard,) = rows(FakeScorer(), wild(1), settings)
    (unheard,) = rows(Deaf(), wild(1), settings)
    assert unavailable_reason(heard) is None
    assert unavailable_reason(unheard) == "nobody is there: ü"


def test_a_place_that_nobody_answered_for_stays_empty_until_somebody_does(tmp_path):
    samples, settings = wild(3), describe_set(FakePolicy(), FakeScorer(), 3, 0, 2, 1.0)
    whole = contents(build(tmp_path / "whole", samples))
    blocks = [samples[:2], samples[2:]]

    shards = GroupShards(tmp_path / "out", settings)
    places = [place for place, _ in shards.missing(blocks, lambda rows: None)]
    first, second = rows(FakeScorer(), samples[:2], settings)
    shards.keep(places[1], second)
    shards.keep(places[0], rows(Deaf(), samples[:1], settings)[0])
    shards.keep(places[2], rows(Deaf(), samples[2:], settings)[0])
    with pytest.raises(ValueError, match=r"1 groups are judged and kept .*nobody is there"):
        shards.close()

    again = GroupShards(tmp_path / "out", settings)
    assert [place for place, _ in again.missing(blocks, lambda rows: None)] == [places[0], places[2]]
    again.keep(places[0], first)
    again.keep(places[2], rows(FakeScorer(), samples[2:], settings)[0])
    again.close()
    assert contents(tmp_path / "out") == whole
