"""Groups of the calibration of expected errors: their own bodies, and those of another person at the same place."""

import numpy as np
import pytest
import torch

from agent.expected_error import ErrorModel
from eval.critics.error_calibration import calibrate_errors, measure_groups
from hmr.types import BodyParams, Hypotheses
from tests.agent.critique_case import group, labelled, make_agent, spoiled_group
from tests.agent.tools.tool_case import standing

CASES = [labelled(f"case {number}") for number in range(4)]


def propose(sample) -> Hypotheses:
    """The true body with noise; of the last case, one that lies elsewhere."""
    members = spoiled_group(seed=int(sample.id[-1]), group=4, worst_rad=0.2)
    if sample.id != CASES[-1].sample.id:
        return group(members)
    turned = BodyParams(
        members.global_orient + torch.tensor([1.5, 0.0, 0.0]),
        members.body_pose,
        members.betas,
        members.transl + 1.0,
    )
    return group(turned)


def test_a_case_has_a_group_of_its_own_and_one_of_the_case_before():
    done = []
    groups = measure_groups(make_agent(), CASES, propose, done.append)
    assert done == [1, 2, 3, 4]
    assert [item.is_own for item in groups] == [True, False] * 4
    own, other = groups[0], groups[1]  # the other bodies are of the last case
    assert max(own.errors_mm) < min(other.errors_mm)
    assert set(own.values) == set(other.values) != set()
    assert own.detection == other.detection


def test_bodies_of_another_person_are_judged_where_this_person_is():
    """Their pelvis is moved, so that the distance alone does not give them away."""
    agent = make_agent()
    groups = measure_groups(agent, CASES, propose)
    near, moved = (np.array(item.values["reprojection_percent_of_box"], float) for item in groups[:2])
    assert near.max() < moved.min() < 100


def test_a_model_is_fitted_with_its_coverage():
    model = calibrate_errors(make_agent(), CASES, CASES[:2], propose)
    assert (model.detector, model.groups) == ("perfect", 8)
    assert model.coverage is not None
    assert model == ErrorModel.from_json(model.to_json())


def test_an_agent_without_a_detector_is_refused():
    with pytest.raises(ValueError, match="no detector"):
        calibrate_errors(make_agent(detector=None), CASES, (), propose)


def test_the_truth_fits():
    truth = Hypotheses(BodyParams.stack([standing()] * 2), CASES[0].sample.camera)
    (own, _) = measure_groups(make_agent(), CASES[:1], lambda sample: truth)
    assert max(own.errors_mm) < 1e-3
