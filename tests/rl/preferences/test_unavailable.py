"""A critic that finds nobody to answer costs no group: they are asked for again, and no set is spoiled by it."""

from __future__ import annotations

import threading

import pytest

from agent.types import BackendUnavailable
from rl.preferences.build import PATIENCE, load_preferences
from rl.scorers.rewards import RewardMix
from tests.rl.preferences.test_build import FakeScorer, build, contents, wild


class Unreliable(FakeScorer):
    """Nobody answers for the groups that `fails(place, times asked)` names."""

    def __init__(self, fails=lambda place, times: False):
        self.fails, self.asked = fails, []
        self._lock = threading.Lock()

    def score(self, sample, hypotheses):
        place = int(sample.id.removeprefix("id-"))
        with self._lock:
            self.asked.append(place)
            times = self.asked.count(place)
        if self.fails(place, times):
            raise BackendUnavailable("the server is down")
        return super().score(sample, hypotheses)


class Speechless(FakeScorer):
    """Answers, and scores no hypothesis of the groups named."""

    def __init__(self, *places):
        self.places = places

    def score(self, sample, hypotheses):
        scores = super().score(sample, hypotheses)
        return [None] * len(scores) if int(sample.id.removeprefix("id-")) in self.places else scores


@pytest.mark.parametrize("in_flight", [1, 3])
def test_who_is_not_answered_for_is_asked_for_again_when_the_others_are_done(tmp_path, in_flight):
    whole = contents(build(tmp_path / "whole"))
    scorer, done = Unreliable(lambda place, times: place in (0, 3) and times == 1), []
    out = build(tmp_path / "out", scorer=scorer, in_flight=in_flight, progress=done.append)
    assert contents(out) == whole
    assert sorted(scorer.asked[:5]) == [0, 1, 2, 3, 4]
    assert sorted(scorer.asked[5:]) == [0, 3]
    assert sum(done) == 5


def test_a_set_that_nobody_answered_for_to_its_end_is_taken_up(tmp_path):
    """The budget holds for two groups, as `--max-calls` does; the next run asks for the other three and no more."""
    whole, out = contents(build(tmp_path / "whole")), tmp_path / "out"
    for _ in range(2):  # a run that gets no farther takes nothing away
        with pytest.raises(
            ValueError, match=r"2 of 5 groups are judged and kept in .*the server is down.* asks for"
        ):
            build(out, scorer=Unreliable(lambda place, times: place > 1))
    scorer = Unreliable()
    assert contents(build(out, scorer=scorer)) == whole
    assert scorer.asked == [2, 3, 4]


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_server_that_is_gone_is_not_asked_about_every_group(tmp_path, in_flight):
    scorer, out = Unreliable(lambda place, times: place > 2), tmp_path / "out"
    with pytest.raises(ValueError, match="3 of 60 groups are judged and kept"):
        build(out, wild(60), scorer=scorer, in_flight=in_flight)
    # those in flight when patience ends are waited for, and none twice
    assert 3 + PATIENCE <= len(scorer.asked) <= 3 + PATIENCE + 2 * (in_flight - 1)
    assert len(set(scorer.asked)) == len(scorer.asked)


def test_a_set_of_which_nothing_is_kept_was_not_begun(tmp_path):
    """The memory of a critic may have learned more by the next run: it is another critic then."""

    class Learned(FakeScorer):
        def digest(self):
            return "has learned"

    with pytest.raises(ValueError, match="0 of 5 groups"):
        build(tmp_path / "out", scorer=Unreliable(lambda place, times: True))
    whole = contents(build(tmp_path / "whole", scorer=Learned()))
    assert contents(build(tmp_path / "out", scorer=Learned())) == whole


def test_groups_without_a_score_are_final_once_one_has_a_score(tmp_path):
    scores = load_preferences(build(tmp_path, scorer=Speechless(0, 1, 4)))["scores"]
    assert [set(group) == {None} for group in scores] == [True, True, False, False, True]


def test_a_critic_that_scored_nobody_has_judged_nothing(tmp_path):
    """A wrong setting, a wrong name: None says nothing of a group yet."""
    whole = contents(build(tmp_path / "whole"))
    with pytest.raises(ValueError, match="fake gave none of 5 groups a score, so none is kept"):
        build(tmp_path / "out", scorer=Speechless(*range(5)))
    assert contents(build(tmp_path / "out")) == whole


def test_a_mixed_reward_of_which_a_part_is_unheard_is_no_reward(tmp_path):
    def near(*, hypotheses, **kwargs):
        return (-hypotheses.params.transl[:, 2]).tolist()

    with pytest.raises(ValueError, match="1 of 5 groups are judged"):
        build(tmp_path, scorer=RewardMix([near, Unreliable(lambda place, times: place > 0)]))
