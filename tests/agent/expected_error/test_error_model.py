"""The model of absolute errors: fit, intervals, what it refuses, and the files it is stored in."""

import json
import math

import numpy as np
import pytest
import torch

from agent.expected_error import (
    ERROR_MODEL_FILE,
    ErrorModel,
    MeasuredGroup,
    detection_features,
    error_model_for,
    fit_error_model,
)
from agent.types import ErrorEstimate
from hmr.types import JOINT_NAMES, Box, Detection

READ = (math.log(0.05), 0.9, 0.9)
SIZE = 8
BOX = Box(0.0, 0.0, 100.0, 80.0)


def simulated(count: int, seed: int = 0, noise: float = 0.1) -> list[MeasuredGroup]:
    """Own groups of about 100 mm and others of about 400 mm, with a metric proportional to the error, and one that is
    not measured on every second hypothesis."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        is_own = number % 2 == 0
        errors = rng.uniform(60, 160, SIZE) if is_own else rng.uniform(300, 500, SIZE)
        measured = errors * np.exp(rng.normal(0, noise, SIZE))
        rare = [float(value) if j % 2 else None for j, value in enumerate(measured)]
        groups.append(
            MeasuredGroup(
                {"layout_percent_of_box": tuple(measured.tolist()), "rare_mm": tuple(rare)},
                READ,
                tuple(errors.tolist()),
                is_own,
            )
        )
    return groups


@pytest.fixture(scope="module")
def model() -> ErrorModel:
    return fit_error_model("stick", simulated(80), simulated(40, seed=1))


def estimates(model: ErrorModel, groups: list[MeasuredGroup]) -> list[ErrorEstimate]:
    found = [model.estimate(group.values, group.detection, len(group.errors_mm)) for group in groups]
    assert None not in found
    return [estimate for estimate in found if estimate]


def test_new_errors_are_estimated_and_lie_in_their_interval_as_often_as_it_says(model):
    groups = simulated(200, seed=2)
    found = estimates(model, groups)
    errors = np.concatenate([group.errors_mm for group in groups])
    expected, low, high = (
        np.concatenate([getattr(estimate, name) for estimate in found])
        for name in ("expected_mm", "low_mm", "high_mm")
    )
    assert np.abs(expected / errors - 1).mean() < 0.12
    assert abs(((low <= errors) & (errors <= high)).mean() - found[0].confidence_level) < 0.06
    assert model.coverage == pytest.approx(found[0].confidence_level, abs=0.08)
    assert ((low <= expected) & (expected <= high)).all()


def test_no_body_of_another_person_fits_and_nearly_every_own_group_does(model):
    groups = simulated(100, seed=3)
    answers = [
        (group.is_own, estimate.none_fits)
        for group, estimate in zip(groups, estimates(model, groups), strict=True)
    ]
    assert all(none_fits for is_own, none_fits in answers if not is_own)
    assert np.mean([none_fits for is_own, none_fits in answers if is_own]) < 0.1


def test_one_body_that_fits_is_enough(model):
    good, bad = simulated(2, seed=4)
    mixed = (good.values["layout_percent_of_box"][0], *bad.values["layout_percent_of_box"][1:])
    found = model.estimate({"layout_percent_of_box": mixed}, READ, SIZE)
    assert found is not None
    assert not found.none_fits
    assert min(found.expected_mm) == found.expected_mm[0]


def test_a_metric_that_is_rarely_measured_is_not_used_and_one_that_is_missing_gives_no_estimate(model):
    assert model.metrics == ("layout_percent_of_box",)
    assert model.estimate({"rare_mm": (1.0,) * SIZE}, READ, SIZE) is None
    assert model.unmeasured({"rare_mm": (1.0,) * SIZE}) == ["layout_percent_of_box"]
    assert model.estimate({"layout_percent_of_box": (None,) * SIZE}, READ, SIZE) is None
    partly = (None, *simulated(1)[0].values["layout_percent_of_box"][1:])
    assert model.estimate({"layout_percent_of_box": partly}, READ, SIZE) is not None


def test_values_beyond_those_of_the_fit_are_not_extrapolated(model):
    far, further = (
        model.estimate({"layout_percent_of_box": (value,) * SIZE}, READ, SIZE) for value in (1e4, 1e8)
    )
    assert far == further


def test_too_few_groups_and_groups_without_a_metric_are_refused():
    with pytest.raises(ValueError, match="at least 8 groups, not 4"):
        fit_error_model("stick", simulated(4))
    bare = [MeasuredGroup({}, READ, (1.0, 2.0), True)] * 8
    with pytest.raises(ValueError, match="no metric is measured"):
        fit_error_model("stick", bare)


def test_the_features_of_a_detection():
    joints = len(JOINT_NAMES)
    found = Detection.from_points(
        JOINT_NAMES,
        torch.zeros(joints, 2),
        torch.full((joints,), 5.0),
        torch.full((joints,), 0.5),
        confidence=0.3,
    )
    assert detection_features(found, BOX) == pytest.approx((math.log(0.05), 0.5, 0.3))
    nothing = Detection.from_points((), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0), confidence=0.0)
    assert detection_features(nothing, BOX) == (0.0, 0.0, 0.0)
    assert detection_features(None, BOX) == (0.0, 0.0, 0.0)


def test_the_model_of_a_memory_is_read_back_and_is_for_its_detector_only(model, tmp_path):
    (tmp_path / ERROR_MODEL_FILE).write_text(json.dumps(model.to_json()))
    assert error_model_for("stick", tmp_path) == model
    assert error_model_for("embedded", tmp_path) is None
    assert error_model_for("stick", None) is None
    assert error_model_for("../error_model", None) is None


def test_a_memory_without_a_model_has_the_shipped_one(tmp_path):
    shipped = error_model_for("embedded", tmp_path)
    assert shipped is not None
    assert shipped == error_model_for("embedded", None)
    assert shipped.coverage is not None
    assert 0.6 < shipped.coverage < 0.95


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"detector": "stick"}'])
def test_a_broken_model_is_one_sentence(tmp_path, content):
    (tmp_path / ERROR_MODEL_FILE).write_text(content)
    with pytest.raises(
        ValueError, match=rf"{ERROR_MODEL_FILE} holds no error model .* explore the memory again"
    ):
        error_model_for("stick", tmp_path)
