"""Expected errors and the detector's confidence in a critique, and the sentences about them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.expected_error import ErrorModel, MeasuredGroup, fit_error_model, verdict_sentences
from agent.tracing.records import Trace
from agent.types import ErrorEstimate
from tests.agent.critique_case import PerfectDetector, group, make_agent, sample, spoiled_group

METRIC = "group_consensus_mm"


@pytest.fixture(scope="module")
def model() -> ErrorModel:
    """Errors equal to the distance from the group's median."""
    groups = [
        MeasuredGroup({METRIC: tuple(errors)}, (-3.0, 1.0, 1.0), tuple(errors), number % 2 == 0)
        for number in range(16)
        for errors in [[(40.0 if number % 2 == 0 else 300.0) + 10 * number + row for row in range(6)]]
    ]
    return fit_error_model("perfect", groups)


class Unsure(PerfectDetector):
    confidence = 0.1

    def detect(self, sample):
        return replace(super().detect(sample), confidence=self.confidence)


def test_expected_errors_are_in_the_critique_and_in_its_trace(model, tmp_path):
    with Trace(tmp_path / "trace.jsonl") as trace:
        critique = make_agent(trace=trace, error_model=model).critique(sample(), group(spoiled_group()))
    assert critique.errors is not None
    assert len(critique.errors.expected_mm) == 6
    (distances,) = [item.values for item in critique.evidence if item.metric == METRIC]
    assert np.argsort(np.array(distances, float)).tolist() == np.argsort(critique.errors.expected_mm).tolist()
    assert critique.detector_confidence == 1.0
    records = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    (outputs,) = [record["outputs"] for record in records if record["node"] == "estimate_errors"]
    assert ErrorEstimate.from_json(outputs["error_estimate"]) == critique.errors


def test_without_a_model_or_its_metric_there_are_no_expected_errors(model):
    critique = make_agent().critique(sample(), group(spoiled_group()))
    assert critique.errors is None
    assert verdict_sentences(critique, "perfect") == []
    blind = make_agent(tools=[], error_model=model).critique(sample(), group(spoiled_group()))
    assert blind.errors is None
    blind = replace(blind, detector_confidence=1.0)
    assert verdict_sentences(blind, "perfect") == [
        f"no error in millimetres is estimated, as no body has a measurement of {METRIC}"
    ]


def test_bodies_beside_the_person_are_named(model):
    hypotheses = group(spoiled_group())
    params = replace(hypotheses.params, transl=hypotheses.params.transl + torch.tensor([3.0, 0.0, 0.0]))
    critique = make_agent(error_model=model).critique(sample(), replace(hypotheses, params=params))
    assert "none of these bodies covers the person" in verdict_sentences(critique, "perfect")


def test_a_group_far_from_everything_does_not_fit(model):
    agent = make_agent(error_model=replace(model, fits_below_mm=5.0))
    (sentence,) = verdict_sentences(agent.critique(sample(), group(spoiled_group())), "perfect")
    assert sentence.startswith("none of these bodies fits; least expected pose error: ")
    fitting = make_agent(error_model=replace(model, fits_below_mm=5000.0))
    (sentence,) = verdict_sentences(fitting.critique(sample(), group(spoiled_group())), "perfect")
    assert sentence.startswith("expected pose error of the body with the best score: ")


def test_without_scores_the_least_expected_error_is_named(model):
    critique = make_agent(error_model=replace(model, fits_below_mm=5000.0)).critique(
        sample(), group(spoiled_group())
    )
    (sentence,) = verdict_sentences(replace(critique, scores=(None,) * 6), "perfect")
    assert critique.errors is not None
    assert sentence.startswith(f"least expected pose error: {min(critique.errors.expected_mm):.0f} mm")


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.1, "does not detect a person in this box (confidence 0.10)"), (0.3, "is uncertain"), (0.6, "")],
)
def test_a_person_that_the_detector_does_not_read_is_reported(confidence, words):
    detector = Unsure()
    detector.confidence = confidence
    critique = make_agent(detector=detector).critique(sample(), group(spoiled_group()))
    assert critique.detector_confidence == confidence
    sentences = verdict_sentences(critique, "perfect")
    assert words in " ".join(sentences)
    assert bool(sentences) == bool(words)


def test_a_missing_detection_is_reported():
    critique = make_agent(detector=None).critique(sample(), group(spoiled_group()))
    assert critique.detector_confidence is None
    assert "there is no detection of the person" in verdict_sentences(critique, "perfect")[0]


def test_a_detection_that_is_known_is_not_made_again():
    """The detector searched for the person and was sure; given the box alone it is not."""
    known = PerfectDetector().detect(sample())
    found = make_agent(detector=Unsure()).critique(sample(), group(spoiled_group()), known)
    assert found.detector_confidence == 1.0
    again = make_agent(detector=PerfectDetector()).critique(sample(), group(spoiled_group()))
    assert found.evidence[0] == again.evidence[0]
