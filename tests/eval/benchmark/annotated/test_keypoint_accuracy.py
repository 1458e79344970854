"""PCK of detector and hypotheses on a set in COCO's own layout, with a detector and a policy whose errors are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmark.annotated.annotated_errors import EvaluationBodies
from eval.benchmark.annotated.annotated_report import AnnotatedReport, report_tables
from eval.benchmark.annotated.prepared_sets import evaluate_annotated
from hmr.body.model import Body
from hmr.body.surface_points import BodyPoints
from hmr.datasets.annotated_set import prepare
from hmr.datasets.joints import COCO17
from hmr.datasets.sources import SOURCES
from hmr.types import NUM_POINTS, POINT_NAMES, BodyParams, Box, Camera, Detection, Hypotheses, Sample
from tests.hmr.datasets.layouts import image, write_json

SIZE, CAMERA = (640, 480), Camera.estimate(640, 480)
BOX = Box(290.0, 190.0, 350.0, 290.0)  # the longer side is 100: the limits are 5, 10 and 20 pixels
SHIFT_PX = 7.0  # of hypothesis 0, all points
COCO_POINTS = [POINT_NAMES.index(name) for name in COCO17.joints]
FEW = ("nose", "left_hip", "right_ankle")  # the labelled keypoints of the second person
# What the detector is off by, in pixels: 7 is correct at .1, 15 at .2, 30 nowhere.
OFF_PX = {"nose": 7.0, "left_ankle": 15.0, "right_ankle": 30.0}
NOT_REPORTED = "left_eye"


def people(shifts_px: Sequence[float]) -> BodyParams:
    count = len(shifts_px)
    transl = torch.tensor([[shift * 6.0 / CAMERA.focal_px, 0.0, 6.0] for shift in shifts_px])
    orient = torch.tensor([[torch.pi, 0.0, 0.0]]).expand(count, 3)
    return BodyParams(orient, torch.zeros(count, 23, 3), torch.zeros(count, 10), transl)


@pytest.fixture(scope="module")
def true_px(body: Body) -> torch.Tensor:
    """The 41 points of the person, who is hypothesis 1."""
    return CAMERA.project(BodyPoints().fit_to(body).in_camera(people([0.0])))[0]


class Shifted:
    """A policy whose hypothesis 0 is 7 pixels to the right of the person, and whose hypothesis 1 is the person."""

    def encode(self, samples: Sequence[Sample], detections: Sequence[Detection]) -> Sequence[Sample]:
        assert len(samples) == len(detections) == 1
        return samples

    def sample(self, features: Any, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return [Hypotheses(people([SHIFT_PX, 0.0]), sample.camera) for sample in features]


class KnownDetector:
    name = "known"

    def __init__(self, true_px: torch.Tensor) -> None:
        self.points_px, self.boxes = true_px.clone(), []
        for name, off_px in OFF_PX.items():
            self.points_px[POINT_NAMES.index(name), 1] += off_px

    def find(self, image: np.ndarray) -> list[Box]:
        raise AssertionError("the boxes are those of the set")

    def detect(self, sample: Sample) -> Detection:
        self.boxes.append(sample.box)
        sigma = torch.ones(NUM_POINTS)
        sigma[POINT_NAMES.index(NOT_REPORTED)] = torch.inf
        zeros = torch.zeros(NUM_POINTS)
        return Detection(self.points_px, sigma, zeros, zeros, zeros + torch.inf)


class Prefers:
    name = "prefers"

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return list(self.scores)


def coco_people(true_px: torch.Tensor) -> dict[str, list[dict[str, Any]]]:
    """cocodataset.org, "Data format": positions are integers, and those of points that are not labelled are 0."""

    def keypoints(labelled: Sequence[str], flag: int) -> list[int]:
        triples = (
            (int(x), int(y), flag) if name in labelled else (0, 0, 0)
            for name, (x, y) in zip(COCO17.joints, true_px[COCO_POINTS].tolist(), strict=True)
        )
        return [value for triple in triples for value in triple]

    box = [BOX.x0, BOX.y0, BOX.x1 - BOX.x0, BOX.y1 - BOX.y0]
    person = {"image_id": 139, "category_id": 1, "area": 2000.0, "bbox": box, "segmentation": [[1.0] * 6]}
    everything = keypoints(COCO17.joints, 2)
    crowd = {"counts": [0, 10], "size": [480, 640]}
    return {
        "images": [
            {
                "license": 2,
                "file_name": "000000000139.jpg",
                "coco_url": "",
                "height": 480,
                "width": 640,
                "id": 139,
            }
        ],
        "annotations": [
            {**person, "id": 1, "iscrowd": 0, "num_keypoints": 17, "keypoints": everything},
            {
                **person,
                "id": 2,
                "iscrowd": 1,
                "num_keypoints": 17,
                "keypoints": everything,
                "segmentation": crowd,
            },
            {**person, "id": 3, "iscrowd": 0, "num_keypoints": 0, "keypoints": [0] * 51},
            {**person, "id": 4, "num_keypoints": 3, "keypoints": keypoints(FEW, 1)},  # without iscrowd
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO17.joints)}
        ],
    }


def evaluated(
    folder: Path, body: Body, true_px: torch.Tensor, scorer: Prefers | None = None
) -> tuple[AnnotatedReport, KnownDetector]:
    write_json(folder / "annotations" / "person_keypoints_val2017.json", coco_people(true_px))
    image(folder / "val2017" / "000000000139.jpg", SIZE)
    prepared = prepare(SOURCES["coco"], folder, "val2017", folder / "prepared")
    detector = KnownDetector(true_px)
    report = evaluate_annotated(
        Shifted(), detector, prepared, EvaluationBodies(body, {}), num_samples=2, seed=0,
        stage=lambda title, total: lambda done, note="": None, scorer=scorer,
    )  # fmt: skip
    return report, detector


def overall(report: AnnotatedReport, estimate: str) -> list[float | None]:
    return [report.pck[estimate][f"pck_{at}"]["all"] for at in ("0.05", "0.1", "0.2")]


def test_only_people_with_labelled_keypoints_count(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    report, detector = evaluated(tmp_path, body, true_px)
    assert [row["person"] for row in report.per_person] == ["1", "4"]
    assert (report.people, report.people_in_image, report.people_in_space) == (2, 2, 0)
    assert detector.boxes == [BOX, BOX]


def test_the_detectors_shares(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    report, _ = evaluated(tmp_path, body, true_px)
    # 16 joints are reported; nose, left ankle and right ankle are off, the others are correct
    assert overall(report, "detector") == pytest.approx([13 / 16, 14 / 16, 15 / 16])
    by_joint = report.pck["detector"]["pck_0.1"]
    assert by_joint[NOT_REPORTED] is None
    assert (by_joint["nose"], by_joint["left_ankle"], by_joint["right_ankle"]) == (1.0, 0.0, 0.0)
    assert (report.pck["detector"]["pck_0.05"]["nose"], report.pck["detector"]["pck_0.2"]["left_ankle"]) == (
        0,
        1,
    )


def test_the_hypotheses_shares(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    """Hypothesis 0 is 7 pixels off, the average 3.5, hypothesis 1 less than the 0.7 of a position in whole pixels."""
    report, _ = evaluated(tmp_path, body, true_px)
    assert overall(report, "hyp0") == [0, 1, 1]
    assert overall(report, "mean") == [0.5, 1, 1]
    assert overall(report, "averaged") == [1, 1, 1]
    assert overall(report, "best2") == [1, 1, 1]
    assert set(report.pck["hyp0"]["pck_0.1"]) == {"all", *COCO17.joints}
    assert all(report.pck["hyp0"]["pck_0.1"][name] == 1 for name in COCO17.joints)


@pytest.mark.parametrize(("scores", "at_05"), [((1.0, 0.0), 0), ((None, 0.0), 1), ((3.0, 3.0), 0.5)])
def test_the_critics_choice(
    tmp_path: Path, body: Body, true_px: torch.Tensor, scores: tuple[float | None, ...], at_05: float
) -> None:
    report, _ = evaluated(tmp_path, body, true_px, Prefers(*scores))
    assert overall(report, "pick2") == [at_05, 1, 1]
    assert report.people_scored == 2


def test_without_scores_there_is_no_choice(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    report, _ = evaluated(tmp_path, body, true_px, Prefers(None, None))
    assert "pick2" not in report.pck
    assert report.people_scored == 0


def test_distances_of_each_person(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    report, _ = evaluated(tmp_path, body, true_px)
    everybody, few = report.per_person
    nose, left_eye = COCO17.joints.index("nose"), COCO17.joints.index(NOT_REPORTED)
    assert everybody["keypoints_px"]["detector"][nose] == pytest.approx(7, abs=0.8)
    assert everybody["keypoints_px"]["detector"][left_eye] is None
    assert everybody["keypoints_px"]["hyp0"] == pytest.approx([SHIFT_PX] * 17, abs=1.2)
    assert everybody["box_side_px"] == 100
    labelled = [value is not None for value in few["keypoints_px"]["best2"]]
    assert labelled == [name in FEW for name in COCO17.joints]
    assert everybody["errors_mm"] is None


def test_tables_show_all_joints(tmp_path: Path, body: Body, true_px: torch.Tensor) -> None:
    report, _ = evaluated(tmp_path, body, true_px)
    shares, joints = report_tables(report)
    assert (shares.row_count, joints.row_count) == (5, 17)
    assert list(joints.columns[0].cells) == list(COCO17.joints)
    assert next(iter(joints.columns[1].cells)) == "0.000 1.000 1.000"  # the detector's nose
    assert list(shares.columns[1].cells) == ["0.812", "0.000", "0.500", "1.000", "1.000"]
