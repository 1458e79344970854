"""Bodies that are imitated without scores."""

import copy

import pytest
import torch

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.detection.protocol import detect_all
from hmr.metrics.errors import average_pose, mpjpe_mm
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample
from rl.imitation import groups_of_labels
from rl.labels.pseudo_labels import averaged_groups, fitted_to_keypoints, read_by
from tests.rl.street_scenes import StoredDetections


def silent(done: int) -> None:
    pass


def bodies(policy: DiffusionPolicy, samples: list[Sample], x0: torch.Tensor):
    return policy.from_x0(x0[:, None], policy.encode(samples))


def test_the_average_is_that_of_the_groups_that_are_scored(
    tiny_policy: DiffusionPolicy, body: Body, samples: list[Sample]
):
    done: list[int] = []
    labels = averaged_groups(tiny_policy, samples, 6, 4, done.append)
    found = body.joints(bodies(tiny_policy, samples, labels.x0))[:, 0]
    for sample, joints_m in zip(samples, found, strict=True):
        features = tiny_policy.encode([sample])
        group = tiny_policy.sample(features, 6, derive_generator(4, "group", sample.id))[0]
        error_mm = mpjpe_mm(joints_m, body.joints(average_pose(group.params)))
        assert float(error_mm) == pytest.approx(0.0, abs=0.1)
    assert done == [1, 2, 3]
    assert labels.estimate_digest == tiny_policy.initial_estimate_digest()


def test_a_fit_is_nearer_to_the_keypoints_than_hypothesis_0(
    tiny_policy: DiffusionPolicy, body: Body, samples: list[Sample]
):
    tiny_policy.detector = StoredDetections()
    labels = fitted_to_keypoints(tiny_policy, body, samples, silent)
    features = tiny_policy.encode(samples)
    start = tiny_policy.sample(features, 1, torch.Generator())
    for row, (sample, group) in enumerate(zip(samples, start, strict=True)):
        fitted = tiny_policy.from_x0(labels.x0[row, None, None], features[row : row + 1])[0]
        before, after = (_distance_px(sample, body.joints(params)[0]) for params in (group.params, fitted))
        assert after < 0.7 * before
    again = fitted_to_keypoints(tiny_policy, body, samples, silent)
    assert torch.equal(again.x0, labels.x0)


def test_a_group_of_one_is_all_that_can_be_drawn(tiny_policy: DiffusionPolicy, samples: list[Sample]):
    labels = averaged_groups(tiny_policy, samples, 2, 0, silent)
    groups = groups_of_labels(labels)
    assert groups.x0.shape == (3, 1, 157)
    assert groups.mask.all()
    assert torch.equal(groups.x0[:, 0], labels.x0)
    assert torch.equal(groups.condition, labels.condition)


def test_a_reading_is_the_readers_estimate_from_the_detector(
    tiny_policy: DiffusionPolicy, body: Body, samples: list[Sample]
):
    torch.nn.init.normal_(tiny_policy.regressor.last[1].bias, generator=derive_generator("reader"))
    reader = copy.deepcopy(tiny_policy)
    torch.nn.init.zeros_(tiny_policy.regressor.last[1].bias)
    labels = read_by(reader, StoredDetections(), tiny_policy, samples, silent)
    found = body.joints(bodies(tiny_policy, samples, labels.x0))[:, 0]
    read = reader.regress(reader.encode(samples, detect_all(StoredDetections(), samples)))
    for joints_m, group in zip(found, read, strict=True):
        torch.testing.assert_close(joints_m, body.joints(group.params)[0], atol=1e-3, rtol=0)


def _distance_px(sample: Sample, joints_m: torch.Tensor) -> float:
    """Mean distance of the observed joints, each counted up to a fifth of the box: outliers are not fitted."""
    [detection] = detect_all(StoredDetections(), [sample])
    seen = detection.keypoint_sigma_px.isfinite() & (detection.keypoint_visibility > 0.5)
    distance_px = (sample.camera.project(joints_m) - detection.keypoints_px).norm(dim=-1)
    return float(distance_px[seen].clamp_max(sample.box.side / 5).mean())
