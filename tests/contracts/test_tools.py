"""The contract of every critique tool. A new built-in tool adds one line: the fault that it must detect."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import roma
import torch

from agent.tools import BUILT_IN, load_tools
from agent.types import Case, CritiqueTool
from hmr.types import BodyParams
from tests.agent.tools.tool_case import case_of, group_of, joint, permuted, standing


def bent(name: str, rotvec: tuple[float, float, float]) -> BodyParams:
    """The standing body with one joint turned to `rotvec`."""
    body_pose = standing().body_pose.clone()
    body_pose[joint(name)] = torch.tensor(rotvec)
    return dataclasses.replace(standing(), body_pose=body_pose)


def moved(x_m: float) -> BodyParams:
    return dataclasses.replace(standing(), transl=standing().transl + torch.tensor([x_m, 0.0, 0.0]))


def leaning(angle: float) -> BodyParams:
    """The whole body pitched towards the camera."""
    pitch = torch.tensor([angle, 0.0, 0.0])
    return dataclasses.replace(
        standing(), global_orient=roma.rotvec_composition([pitch, standing().global_orient])
    )


def built(sd: float) -> BodyParams:
    return dataclasses.replace(standing(), betas=torch.full((10,), sd))


# tool -> a body with the fault that it must detect, and the part at fault (None: no specific part)
FAULTS: dict[str, tuple[Callable[[], BodyParams], str | None]] = {
    "reprojection": (lambda: bent("left_elbow", (0.0, -2.0, 0.0)), "left forearm"),
    "keypoint_layout": (lambda: bent("left_elbow", (0.0, -2.0, 0.0)), "left forearm"),
    "silhouette": (lambda: moved(0.6), "left thigh"),
    "appearance": (lambda: bent("left_shoulder", (0.0, 0.0, 0.0)), "forearms"),
    "joint_limits": (lambda: bent("left_knee", (-1.2, 0.0, 0.0)), "left shin"),
    "self_contact": (lambda: bent("left_shoulder", (0.0, 0.0, -2.0)), "left forearm"),
    "ground_contact": (lambda: leaning(0.5), "left foot"),
    "pose_prior": (lambda: bent("spine2", (0.0, 1.0, 0.0)), "torso"),
    "shape_prior": (lambda: built(4.0), None),
    "pose_reading": (lambda: bent("right_shoulder", (0.0, 0.0, -1.2)), "right forearm"),
    "depth_order": (lambda: bent("left_knee", (1.2, 0.0, 0.0)), "left foot"),
    "group_consensus": (lambda: bent("right_shoulder", (0.0, 0.0, -1.2)), "right forearm"),
}


@cache
def faulty_case(name: str) -> Case:
    return case_of(group_of(FAULTS[name][0]()))


@pytest.fixture(params=BUILT_IN)
def tool(request: pytest.FixtureRequest) -> CritiqueTool:
    return load_tools([request.param])[0]


@pytest.fixture
def case(tool: CritiqueTool) -> Case:
    return faulty_case(tool.name)


def test_gives_one_finite_value_or_none_for_each_hypothesis(tool, case):
    evidence = tool.measure(case)
    assert evidence.tool == tool.name
    assert len(evidence.values) == len(evidence.parts) == len(evidence.sentences) == len(case)
    assert all(value is None or math.isfinite(value) for value in evidence.values)
    assert all(isinstance(value, float | None) for value in evidence.values)


def test_gives_one_short_sentence_for_each_hypothesis(tool, case):
    for sentence in tool.measure(case).sentences:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert len(sentence) <= 120


def test_detects_the_planted_fault_and_its_body_part(tool, case):
    evidence = tool.measure(case)
    *good, faulty = evidence.values
    assert faulty > max(good)
    part = FAULTS[tool.name][1]
    assert part is None or part in evidence.parts[-1]


def test_the_good_hypothesis_has_no_parts_at_fault(tool, case):
    assert tool.measure(case).parts[0] == ()


def test_evidence_is_permuted_with_the_hypotheses(tool, case):
    order = [3, 1, 0, 2]
    before, after = tool.measure(case), tool.measure(permuted(case, order))
    assert after.values == pytest.approx([before.values[index] for index in order], abs=1e-3)
    assert after.parts == tuple(before.parts[index] for index in order)
    assert after.sentences == tuple(before.sentences[index] for index in order)


def test_measuring_does_not_change_the_case(tool, case):
    arrays = [array.copy() for array in arrays_of(case)]
    tool.measure(case)
    for before, after in zip(arrays, arrays_of(case), strict=True):
        np.testing.assert_array_equal(before, after)


def test_two_instances_give_equal_evidence(tool, case):
    assert tool.measure(case) == copy.deepcopy(tool).measure(case) == load_tools([tool.name])[0].measure(case)


def test_every_built_in_tool_has_a_planted_fault():
    assert FAULTS.keys() == BUILT_IN.keys()


def arrays_of(item: object) -> Iterator[np.ndarray]:
    """Every array within nested dataclasses, the body's buffers left out."""
    if isinstance(item, torch.Tensor | np.ndarray):
        yield np.asarray(item)
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from arrays_of(getattr(item, field.name))
