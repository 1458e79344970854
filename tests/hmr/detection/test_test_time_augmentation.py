"""Test-time augmentation: mirror images swap sides, and the mean has a smaller error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.types import JOINT_NAMES, OTHER_SIDE, Box, Camera, Detection, Sample

WIDTH, HEIGHT = 120, 80
TRUE_PX = torch.stack([torch.linspace(10, 100, 24), torch.linspace(70, 12, 24)], dim=-1)
TRUE_M = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Fake:
    """Returns the true joints of the photograph or its mirror image, with noise of `noise_px`."""

    name = "fake"

    def __init__(self, noise_px: float = 0.0, sigma_px: float = 2.0, has_3d: bool = True) -> None:
        self.noise_px, self.sigma_px, self.has_3d = noise_px, sigma_px, has_3d
        self.calls = 0

    def find(self, image: np.ndarray) -> list[Box]:
        return []

    def detect(self, sample: Sample) -> Detection:
        self.calls += 1
        keypoints, joints = TRUE_PX, TRUE_M
        if sample.image[0, 0, 0] == 0:  # the marker is in the other corner: a mirror image
            keypoints = torch.stack([WIDTH - TRUE_PX[:, 0], TRUE_PX[:, 1]], dim=-1)[OTHER_SIDE]
            joints = (TRUE_M * torch.tensor([-1.0, 1.0, 1.0]))[OTHER_SIDE]
        generator = torch.Generator().manual_seed(self.calls)
        noise = self.noise_px * torch.randn(24, 2, generator=generator)
        return Detection.from_points(
            JOINT_NAMES,
            keypoints + noise,
            torch.full((24,), self.sigma_px),
            torch.full((24,), 0.9),
            mask=np.ones((8, 8), np.float32),
            mask_box=sample.box.square(1.2),
            joints_root_m=joints if self.has_3d else None,
        )


@pytest.fixture
def sample() -> Sample:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[0, 0] = 255
    return Sample("s", image, Box(8.0, 10.0, 102.0, 72.0), Camera.estimate(WIDTH, HEIGHT))


def test_mirror_images_have_the_mirrored_camera(sample: Sample) -> None:
    """A point projects to the mirrored pixel; the principal point is not in the middle of the image."""
    seen: list[Sample] = []

    class Watching(Fake):
        def detect(self, sample: Sample) -> Detection:
            seen.append(sample)
            return super().detect(sample)

    off_centre = dataclasses.replace(sample, camera=Camera(150.0, 45.0, 41.0, WIDTH, HEIGHT))
    detect_with_augmentation(Watching(), off_centre, views=2)
    assert [each.camera.cx_px for each in seen] == [45.0, 45.0, WIDTH - 45.0, WIDTH - 45.0]
    point_m, mirrored_m = torch.tensor([0.2, 0.1, 3.0]), torch.tensor([-0.2, 0.1, 3.0])
    (x, y), (other_x, other_y) = (
        each.camera.project(point).tolist() for each, point in ((seen[0], point_m), (seen[-1], mirrored_m))
    )
    assert (other_x, other_y) == pytest.approx((WIDTH - x, y))


def test_the_mean_of_exact_detections_is_exact(sample: Sample) -> None:
    fused = detect_with_augmentation(Fake(), sample, views=3)
    torch.testing.assert_close(fused.keypoints_px, TRUE_PX)
    torch.testing.assert_close(fused.joints_root_m, TRUE_M)
    torch.testing.assert_close(fused.keypoint_sigma_px, torch.full((24,), 2.0))
    torch.testing.assert_close(fused.keypoint_visibility, torch.full((24,), 0.9))
    assert fused.mask_box == sample.box.square(1.2)


def test_the_mean_of_sixteen_detections_has_a_quarter_of_the_error(sample: Sample) -> None:
    """Independent errors: sqrt(16) = 4; a half is allowed."""
    one, many = (
        Fake(noise_px=4.0).detect(sample),
        detect_with_augmentation(Fake(noise_px=4.0), sample, views=8),
    )
    off = [(found.keypoints_px - TRUE_PX).norm(dim=-1).mean() for found in (one, many)]
    assert off[1] < off[0] / 2


def test_keypoints_are_weighted_by_precision(sample: Sample) -> None:
    """sigma 1 and 3: weights .9 and .1, so a keypoint 10 pixels off with sigma 3 moves by 1."""

    class Unsure(Fake):
        def detect(self, sample: Sample) -> Detection:
            seen = super().detect(sample)
            if sample.image[0, 0, 0]:
                return dataclasses.replace(seen, sigma_px=seen.sigma_px / 2)
            moved = seen.points_px + torch.tensor([0.0, 10.0])
            return dataclasses.replace(seen, points_px=moved, sigma_px=seen.sigma_px * 1.5)

    fused = detect_with_augmentation(Unsure(), sample, views=1)
    torch.testing.assert_close(fused.keypoints_px, TRUE_PX + torch.tensor([0.0, 1.0]))


def test_each_view_is_another_box_and_its_mirror_image(sample: Sample) -> None:
    seen: list[Box] = []

    class Watching(Fake):
        def detect(self, sample: Sample) -> Detection:
            seen.append(sample.box)
            return super().detect(sample)

    detect_with_augmentation(Watching(), sample, views=3)
    assert len(seen) == 6
    assert seen[0] == sample.box
    assert len(set(seen)) == 6
    for straight, mirrored in zip(seen[:3], seen[3:], strict=True):
        assert mirrored.x0 == pytest.approx(WIDTH - straight.x1)
        assert mirrored.side == pytest.approx(straight.side)


def test_a_known_detection_is_not_repeated(sample: Sample) -> None:
    """One view whose detection is known: only its mirror image is left."""
    detector = Fake()
    first = Fake().detect(sample)
    first = dataclasses.replace(first, points_px=first.points_px + torch.tensor([4.0, 0.0]))
    fused = detect_with_augmentation(detector, sample, views=1, first=first)
    assert detector.calls == 1
    middle = TRUE_PX + torch.tensor([2.0, 0.0])  # equal sigmas
    torch.testing.assert_close(fused.keypoints_px, middle)


@pytest.mark.parametrize(("is_flip_tested", "passes"), [(True, [2]), (False, [5])])
def test_a_batch_detector_is_called_once_and_mirrored_unless_flip_tested(
    is_flip_tested: bool, passes: list[int], sample: Sample
) -> None:
    batches: list[int] = []

    class Batched:
        """Three views, the first of them known: two crops are left, and three mirror images."""

        name = "batched"

        def __init__(self) -> None:
            self.is_flip_tested, self.one = is_flip_tested, Fake()

        def find(self, image: np.ndarray) -> list[Box]:
            return []

        def detect(self, sample: Sample) -> Detection:
            raise AssertionError("one by one")

        def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
            batches.append(len(samples))
            return [self.one.detect(each) for each in samples]

    fused = detect_with_augmentation(Batched(), sample, views=3, first=Fake().detect(sample))
    assert batches == passes
    torch.testing.assert_close(fused.keypoints_px, TRUE_PX)


def test_a_detector_of_images_alone_gives_no_joints(sample: Sample) -> None:
    assert detect_with_augmentation(Fake(has_3d=False), sample, views=2).joints_root_m is None


def test_the_same_seed_gives_the_same_result(sample: Sample) -> None:
    first, again = (detect_with_augmentation(Fake(noise_px=1.0), sample, views=2, seed=3) for _ in range(2))
    assert torch.equal(first.keypoints_px, again.keypoints_px)


def test_points_that_are_not_reported_stay_so(sample: Sample) -> None:
    fused = detect_with_augmentation(Fake(), sample, views=2)
    assert fused.observed.tolist() == [True] * 24 + [False] * 17
    assert torch.isinf(fused.depth_sigma_m).all()
    assert all(getattr(fused, name).isfinite().all() for name in ("points_px", "visibility", "depth_m"))
