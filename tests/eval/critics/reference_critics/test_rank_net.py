"""The RankNet over the tools' values, and the ground-truth detector."""

import dataclasses

import numpy as np
import pytest
import torch

from agent.agreement import group_spearman
from agent.types import Evidence
from eval.critics.reference_critics.ground_truth_detector import GroundTruthDetector
from eval.critics.reference_critics.rank_net import ToolRankNet, standardised
from hmr.body.model import Body
from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker


def evidence(metric: str, *values: float | None) -> Evidence:
    empty = tuple(() for _ in values)
    return Evidence("tool", metric, "mm", values, empty, tuple("" for _ in values))


def test_values_are_standardised_within_the_group():
    # (1, 2, 3): mean 2, std sqrt(2/3) = 0.8165; a missing value and a constant metric are 0
    columns = standardised([evidence("a", 1.0, 2.0, 3.0), evidence("b", 5.0, 5.0, 5.0)], ["a", "b", "c"], 3)
    torch.testing.assert_close(columns[:, 0], torch.tensor([-1.0, 0.0, 1.0]) / 0.81650, atol=1e-4, rtol=0)
    assert not columns[:, 1:].any()
    partly = standardised([evidence("a", 1.0, None, 3.0)], ["a"], 3)
    assert partly[:, 0].tolist() == [-1.0, 0.0, 1.0]


def test_the_network_learns_which_metric_ranks():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 8, 3, generator=generator)
    errors = values[..., 1] * 50 + 10 * torch.randn(40, 8, generator=generator)
    network = ToolRankNet(3)
    network.fit(values[:30], errors[:30])
    agreement = [
        group_spearman(network.score(v), e.tolist()) for v, e in zip(values[30:], errors[30:], strict=True)
    ]
    assert np.mean([rho for rho in agreement if rho is not None]) > 0.8


def test_3d_joints_of_the_ground_truth_detector_are_the_readers(tiny_policy: DiffusionPolicy, body: Body):
    labelled = SceneMaker(body, LAB, seed=3).chunk(0, 1)[0].labelled
    truths = {labelled.sample.id: labelled.truth}
    detector = WithJoints3D(GroundTruthDetector(truths), tiny_policy, body)
    found = detector.detect(labelled.sample)
    assert torch.equal(found.keypoints_px, labelled.truth.keypoints_px)
    features = tiny_policy.encode([labelled.sample], [found])
    joints_m = body.joints(tiny_policy.regress(features)[0].params)[0]
    torch.testing.assert_close(found.joints_root_m, joints_m - joints_m[:1])
    augmented = detect_with_augmentation(detector, labelled.sample, views=3)
    torch.testing.assert_close(augmented.keypoints_px, labelled.truth.keypoints_px)  # not of the mirror image


def test_ground_truth_detections(body: Body):
    labelled = SceneMaker(body, LAB, seed=3).chunk(0, 1)[0].labelled
    found = GroundTruthDetector({labelled.sample.id: labelled.truth}).detect(labelled.sample)
    assert torch.equal(found.keypoints_px, labelled.truth.keypoints_px)
    assert torch.equal(found.keypoint_visibility.bool(), labelled.truth.visible)
    side = found.mask_box.x1 - found.mask_box.x0
    rows, columns = np.nonzero(found.mask > 0.75)  # 0.5 beyond the image
    pixels = (np.stack([columns, rows]) + 0.5) * side / len(found.mask)
    center = pixels.mean(axis=1) + np.array([found.mask_box.x0, found.mask_box.y0])
    true_center = np.stack(np.nonzero(labelled.truth.mask)[::-1]).mean(axis=1) + 0.5
    assert center == pytest.approx(true_center, abs=3)  # of 224
    unknown = dataclasses.replace(labelled.sample, id="another")
    with pytest.raises(KeyError):
        GroundTruthDetector({labelled.sample.id: labelled.truth}).detect(unknown)
