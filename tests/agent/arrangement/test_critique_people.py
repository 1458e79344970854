"""All people of a photograph in one critique: the same verdict per person, and arrangements of their hypotheses."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from agent.agent import CritiqueAgent
from agent.arrangement.critique import MAX_ARRANGEMENTS, candidates, critique_arrangements, critique_people
from agent.arrangement.types import Arrangement, ArrangementVerdict
from agent.tracing.records import Trace
from agent.types import GroupCritique
from hmr.types import BodyParams, Box, Detection, Hypotheses, Sample
from tests.agent.arrangement.placed_people import CAMERA, perfect_detections, standing_at, true_params
from tests.agent.critique_case import make_agent

IMAGE = np.random.default_rng(0).integers(0, 255, (320, 320, 3), dtype=np.uint8)
BOXES = (Box(100.0, 60.0, 190.0, 320.0), Box(130.0, 80.0, 210.0, 290.0))
PersonGroup = tuple[Sample, Hypotheses, Detection | None]


def hypotheses_of(*members: BodyParams) -> Hypotheses:
    return Hypotheses(BodyParams.stack(list(members)), CAMERA)


def bent(params: BodyParams, angle: float) -> BodyParams:
    body_pose = params.body_pose.clone()
    body_pose[3, 0] = angle  # the left knee
    return dataclasses.replace(params, body_pose=body_pose)


def two_people() -> list[PersonGroup]:
    """Of each the truth, and the same body with a bent knee."""
    near, far = true_params()
    groups = (hypotheses_of(near, bent(near, 0.4)), hypotheses_of(far, bent(far, 0.4)))
    return [
        (Sample(f"person-{row}", IMAGE, BOXES[row], CAMERA), groups[row], perfect_detections()[row])
        for row in (0, 1)
    ]


@pytest.fixture(scope="module")
def agent() -> CritiqueAgent:
    return make_agent()


def scored(*scores: float | None) -> GroupCritique:
    return GroupCritique("x", scores, (), (), 0.0, (), (), (), ())


def test_each_person_gets_the_verdict_that_the_agent_gives_alone(agent):
    people = two_people()
    together = critique_people(agent, people)
    for critique, person in zip(together.people, people, strict=True):
        alone = agent.critique(*person)
        assert dataclasses.replace(critique, trace_id="") == dataclasses.replace(alone, trace_id="")


def test_the_best_arrangement_has_score_comment_and_evidence(agent):
    best = critique_people(agent, two_people()).best
    assert best is not None
    assert best.arrangement == Arrangement((0, 1), (0, 0))
    assert best.score > 90
    assert best.comment
    assert {item.tool for item in best.evidence} == {
        "interpenetration", "occlusion_order", "common_ground", "common_scale"
    }  # fmt: skip


def test_a_hypothesis_in_the_other_body_is_chosen_only_without_arrangements(agent):
    """Person 1's hypothesis with the higher score stands in person 0; the arrangement takes the other one."""
    people = two_people()
    sample, _, detection = people[1]
    inside = standing_at(-0.1, 3.45)
    people[1] = (sample, hypotheses_of(inside, true_params()[1]), detection)
    critiques = [scored(60.0, 20.0), scored(60.0, 50.0)]
    found = critique_arrangements(agent, people, critiques)
    assert found[0].arrangement.hypotheses == (0, 1)
    by_hypotheses = {item.arrangement.hypotheses: item for item in found}
    assert len(by_hypotheses) == 4
    wrong = by_hypotheses[0, 0]
    assert wrong.score < 50 < found[0].score
    assert "into the" in wrong.comment
    assert (wrong.mean_score, found[0].mean_score) == (60.0, 55.0)


@pytest.mark.parametrize("second", [None, ()], ids=["no score", "alone"])
def test_fewer_than_two_scored_people_have_no_arrangement(agent, second):
    people, critiques = two_people(), [scored(60.0, 20.0), scored(None, None)]
    count = 2 if second is None else 1
    assert critique_arrangements(agent, people[:count], critiques[:count]) == ()


def test_people_without_a_score_are_left_out(agent):
    people = [*two_people(), two_people()[0]]
    critiques = [scored(60.0, 20.0), scored(None, None), scored(10.0, None)]
    found = critique_arrangements(agent, people, critiques)
    assert {item.arrangement for item in found} == {Arrangement((0, 2), (0, 0)), Arrangement((0, 2), (1, 0))}
    named = {number for item in found for evidence in item.evidence for number in evidence.people}
    assert named <= {0, 2}


def test_people_in_different_cameras_are_refused_before_any_critique(agent):
    people = two_people()
    sample, group, detection = people[1]
    people[1] = (sample, dataclasses.replace(group, camera=CAMERA.resize(640, 640)), detection)
    with pytest.raises(ValueError, match="share one camera; person 1 has"):
        critique_people(agent, people)


def test_candidates_are_bounded_and_begin_with_the_best_of_each():
    generator = torch.Generator().manual_seed(0)
    scores = (100 * torch.rand(12, 8, generator=generator)).tolist()
    found = candidates(scores)
    assert len(found) == len(set(found)) == MAX_ARRANGEMENTS
    assert found[0].hypotheses == tuple(max(range(8), key=row.__getitem__) for row in scores)
    sums = [sum(row[j] for row, j in zip(scores, one.hypotheses, strict=True)) for one in found]
    assert sums == sorted(sums, reverse=True)


def test_another_scorer_takes_the_place_of_the_embedded_one(agent):
    found = critique_people(agent, two_people(), scorer=lambda evidence: ArrangementVerdict(7.0, "Mine."))
    assert {(item.score, item.comment) for item in found.arrangements} == {(7.0, "Mine.")}


def test_the_detector_is_run_for_people_without_a_detection(agent):
    class Counting:
        name = "counting"

        def __init__(self):
            self.seen = []

        def find(self, image):
            return []

        def detect(self, sample):
            self.seen.append(sample.id)
            return perfect_detections()[int(sample.id[-1])]

    detector = Counting()
    people = [(sample, group) for sample, group, _ in two_people()]
    found = critique_arrangements(
        dataclasses.replace(agent, detector=detector), people, [scored(60.0, 20.0)] * 2
    )
    assert sorted(detector.seen) == ["person-0", "person-1"]
    order = next(item for item in found[0].evidence if item.tool == "occlusion_order")
    assert order.value is not None


def test_the_trace_has_one_record_of_the_arrangements(tmp_path, agent):
    with Trace(tmp_path / "trace.jsonl") as trace:
        found = critique_people(dataclasses.replace(agent, trace=trace), two_people())
    records = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    (record,) = [record for record in records if record["node"] == "arrange_people"]
    assert record["inputs"] == {"people": ["person-0", "person-1"]}
    assert record["outputs"]["arrangements"] == json.loads(
        json.dumps([item.to_json() for item in found.arrangements])
    )
    assert len({record["trace"] for record in records}) == 3
