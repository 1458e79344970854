"""A footprint that grows is found, and one that is flat after its warm-up is not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.critic.steady_critiques import MIN_WARM_UP, Footprint, critique_for, footprint, growth_of
from tests.agent.critique_case import group, make_agent, sample, spoiled_group


def run(memory_mib, files=lambda number: 9, count: int = 200) -> list[Footprint]:
    return [Footprint(float(n), memory_mib(n), files(n), 4, 1) for n in range(count)]


def test_growth_before_the_end_of_the_warm_up_does_not_count():
    assert growth_of(run(lambda n: 100.0 + min(n, MIN_WARM_UP))).is_flat


@pytest.mark.parametrize(
    "found",
    [
        run(lambda n: 100.0 + n),
        run(lambda n: 100.0, files=lambda n: 9 + n // 150),
        run(lambda n: 200.0 * (n == 150)),
    ],
    ids=["memory", "a file", "a peak"],
)
def test_growth_after_it_is_found(found):
    assert not growth_of(found).is_flat


def test_a_short_run_says_nothing():
    with pytest.raises(ValueError, match="no more than the warm-up"):
        growth_of(run(lambda n: 1.0, count=MIN_WARM_UP))


def test_an_open_file_and_more_memory_are_seen(tmp_path):
    before = footprint(0.0)
    with (tmp_path / "a").open("w"):
        ballast = np.ones(64 << 20, np.uint8)  # every page is written
        after = footprint(1.0)
    assert after.files == before.files + 1
    assert after.memory_mib > before.memory_mib + 50
    assert len(ballast)


@pytest.mark.slow
def test_critiques_of_one_process_are_flat():
    """As many as the warm-up and a few more."""
    found = critique_for(make_agent(), [(sample(), group(spoiled_group()))], 0.0)
    assert len(found) == MIN_WARM_UP + 2
    assert growth_of([*found, *found[-1:]]).is_flat
