"""Groups whose critic is unavailable are scored again later, by the same run or the next one."""

from __future__ import annotations

import threading

import pytest

from agent.types import BackendUnavailable
from rl.preferences.build import MAX_UNAVAILABLE, load_preferences
from rl.scorers.rewards import RewardMix
from tests.rl.preferences.test_build import FakeScorer, build, contents, wild


class Unreliable(FakeScorer):
    """Raises BackendUnavailable for the groups selected by `fails(index, times asked)`."""

    def __init__(self, fails=lambda index, times: False):
        self.fails, self.asked = fails, []
        self._lock = threading.Lock()

    def score(self, sample, hypotheses):
        index = int(sample.id.removeprefix("id-"))
        with self._lock:
            self.asked.append(index)
            times = self.asked.count(index)
        if self.fails(index, times):
            raise BackendUnavailable("the server is down")
        return super().score(sample, hypotheses)


class NoScores(FakeScorer):
    """Returns no score for the groups given by index."""

    def __init__(self, *indices):
        self.indices = indices

    def score(self, sample, hypotheses):
        scores = super().score(sample, hypotheses)
        return [None] * len(scores) if int(sample.id.removeprefix("id-")) in self.indices else scores


@pytest.mark.parametrize("in_flight", [1, 3])
def test_unavailable_groups_are_scored_again_after_the_others(tmp_path, in_flight):
    whole = contents(build(tmp_path / "whole"))
    scorer, done = Unreliable(lambda index, times: index in (0, 3) and times == 1), []
    out = build(tmp_path / "out", scorer=scorer, in_flight=in_flight, progress=done.append)
    assert contents(out) == whole
    assert sorted(scorer.asked[:5]) == [0, 1, 2, 3, 4]
    assert sorted(scorer.asked[5:]) == [0, 3]
    assert sum(done) == 5


def test_the_next_run_scores_the_unavailable_groups(tmp_path):
    """The budget suffices for two groups, as with `--max-calls`; the next run scores only the other three."""
    whole, out = contents(build(tmp_path / "whole")), tmp_path / "out"
    for _ in range(2):  # a run without progress loses nothing
        with pytest.raises(
            ValueError, match=r"2 of 5 groups are scored and saved in .*the server is down.* for the rest"
        ):
            build(out, scorer=Unreliable(lambda index, times: index > 1))
    scorer = Unreliable()
    assert contents(build(out, scorer=scorer)) == whole
    assert scorer.asked == [2, 3, 4]


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_run_stops_after_several_unavailable_groups_in_a_row(tmp_path, in_flight):
    saved, three_saved, out = [], threading.Event(), tmp_path / "out"

    def progress(rows):
        saved.append(rows)
        if sum(saved) == 3:
            three_saved.set()

    def fails(index, times):
        # an answer that arrives between the failures would start the count again
        return index > 2 and three_saved.wait(60)

    scorer = Unreliable(fails)
    with pytest.raises(ValueError, match="3 of 60 groups are scored and saved"):
        build(out, wild(60), scorer=scorer, in_flight=in_flight, progress=progress)
    # groups in flight at the limit are finished, and none is asked twice
    assert 3 + MAX_UNAVAILABLE <= len(scorer.asked) <= 3 + MAX_UNAVAILABLE + 2 * (in_flight - 1)
    assert len(set(scorer.asked)) == len(scorer.asked)


def test_a_set_without_saved_groups_accepts_another_critic(tmp_path):
    """The memory of the critic may have changed before the next run, which makes it another critic."""

    class Learned(FakeScorer):
        def digest(self):
            return "has learned"

    with pytest.raises(ValueError, match="0 of 5 groups"):
        build(tmp_path / "out", scorer=Unreliable(lambda index, times: True))
    whole = contents(build(tmp_path / "whole", scorer=Learned()))
    assert contents(build(tmp_path / "out", scorer=Learned())) == whole


def test_groups_without_a_score_are_final_once_one_has_a_score(tmp_path):
    scores = load_preferences(build(tmp_path, scorer=NoScores(0, 1, 4)))["scores"]
    assert [set(group) == {None} for group in scores] == [True, True, False, False, True]


def test_a_critic_without_any_score_saves_nothing(tmp_path):
    """The cause is a wrong setting, not the groups."""
    whole = contents(build(tmp_path / "whole"))
    with pytest.raises(ValueError, match="fake gave none of 5 groups a score, so none is saved"):
        build(tmp_path / "out", scorer=NoScores(*range(5)))
    assert contents(build(tmp_path / "out")) == whole


def test_a_mixed_reward_needs_all_its_parts(tmp_path):
    def near(*, hypotheses, **kwargs):
        return (-hypotheses.params.transl[:, 2]).tolist()

    with pytest.raises(ValueError, match="1 of 5 groups are scored"):
        build(tmp_path, scorer=RewardMix([near, Unreliable(lambda index, times: index > 0)]))
