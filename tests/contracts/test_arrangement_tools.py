"""The contract of every arrangement tool. A new one adds one line: the fault that it must detect."""

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from agent.arrangement.measure import TOOLS
from agent.arrangement.scoring import PENALTIES
from agent.arrangement.types import ArrangementTool, PlacedPeople
from tests.agent.arrangement.placed_people import (
    FAR,
    NEAR,
    placed,
    posed,
    scaled,
    standing_at,
    true_pair,
    true_params,
)
from tests.contracts.test_tools import arrays_of


def exchanged() -> PlacedPeople:
    """Their distances exchanged; every projection stays."""
    return placed(scaled(posed(*true_params()), 4.6 / 3.4, 3.4 / 4.6))


def one_in_the_other() -> PlacedPeople:
    return placed(posed(standing_at(-0.15, 3.4), standing_at(0.0, 3.45)))


def one_floating() -> PlacedPeople:
    return placed(posed(standing_at(-0.15, 3.4), standing_at(0.15, 4.6, height_m=0.9)))


# tool -> people with the fault that it must detect, and the rows at fault
FAULTS: dict[str, tuple[Callable[[], PlacedPeople], set[int]]] = {
    "interpenetration": (one_in_the_other, {NEAR, FAR}),
    "occlusion_order": (exchanged, {NEAR, FAR}),
    "common_ground": (one_floating, {NEAR, FAR}),
    "common_scale": (exchanged, {NEAR, FAR}),
}


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.name)
def tool(request: pytest.FixtureRequest) -> ArrangementTool:
    return request.param


@pytest.fixture
def faulty(tool: ArrangementTool) -> PlacedPeople:
    return FAULTS[tool.name][0]()


def test_gives_one_finite_value_and_one_short_sentence(tool, faulty):
    for people in (true_pair(), faulty):
        evidence = tool.measure(people)
        assert evidence.tool == tool.name
        assert isinstance(evidence.value, float)
        assert math.isfinite(evidence.value)
        sentence = evidence.for_people((3, 7)).sentence
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert "{" not in sentence
        assert len(sentence) <= 120


def test_detects_the_planted_fault_and_the_people_at_fault(tool, faulty):
    good, bad = tool.measure(true_pair()), tool.measure(faulty)
    assert bad.value > good.value
    assert good.people == ()
    assert set(bad.people) == FAULTS[tool.name][1]
    assert good.sentence != bad.sentence


def test_the_order_of_the_people_does_not_matter(tool, faulty):
    before, after = tool.measure(faulty), tool.measure(faulty[[1, 0]])
    assert after.value == pytest.approx(before.value, rel=1e-3)
    assert {1 - row for row in after.people} == set(before.people)


def test_measuring_does_not_change_the_people(tool, faulty):
    arrays = [array.copy() for array in arrays_of(faulty)]
    tool.measure(faulty)
    for before, after in zip(arrays, arrays_of(faulty), strict=True):
        np.testing.assert_array_equal(before, after)


def test_two_instances_give_equal_evidence(tool, faulty):
    assert tool.measure(faulty) == copy.deepcopy(tool).measure(faulty)


def test_measures_without_detections_and_without_masks(tool, faulty):
    bare = dataclasses.replace(faulty, detections=(None, None))
    tool.measure(bare)
    no_masks = tuple(
        dataclasses.replace(one, mask=None, mask_box=None) for one in faulty.detections if one is not None
    )
    assert (
        tool.measure(dataclasses.replace(faulty, detections=no_masks)).value > tool.measure(true_pair()).value
    )


def test_every_tool_has_a_planted_fault_and_a_penalty():
    assert FAULTS.keys() == {tool.name for tool in TOOLS}
    assert PENALTIES.keys() == {tool.measure(true_pair()).metric for tool in TOOLS}
