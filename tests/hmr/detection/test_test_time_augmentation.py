"""Several looks at one photograph: the mirror names sides alike, and a mean is steadier than a look."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.policy.flip import OTHER_SIDE
from hmr.types import Box, Camera, Detection, Sample

WIDTH, HEIGHT = 120, 80
TRUE_PX = torch.stack([torch.linspace(10, 100, 24), torch.linspace(70, 12, 24)], dim=-1)
TRUE_M = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


class Fake:
    """Knows the truth of the photograph and of its mirror image, and errs as `noise_px` says, by the box."""

    name = "fake"

    def __init__(self, noise_px: float = 0.0, sigma_px: float = 2.0, in_space: bool = True) -> None:
        self.noise_px, self.sigma_px, self.in_space = noise_px, sigma_px, in_space
        self.looks = 0

    def find(self, image: np.ndarray) -> list[Box]:
        return []

    def detect(self, sample: Sample) -> Detection:
        self.looks += 1
        keypoints, joints = TRUE_PX, TRUE_M
        if (
            sample.image[0, 0, 0] == 0
        ):  # the marker is in the other corner: a mirror image, whose left is right
            keypoints = torch.stack([WIDTH - TRUE_PX[:, 0], TRUE_PX[:, 1]], dim=-1)[OTHER_SIDE]
            joints = (TRUE_M * torch.tensor([-1.0, 1.0, 1.0]))[OTHER_SIDE]
        generator = torch.Generator().manual_seed(self.looks)
        noise = self.noise_px * torch.randn(24, 2, generator=generator)
        return Detection(
            keypoints + noise,
            torch.full((24,), self.sigma_px),
            torch.full((24,), 0.9),
            np.ones((8, 8), np.float32),
            sample.box.square(1.2),
            joints if self.in_space else None,
        )


@pytest.fixture
def sample() -> Sample:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[0, 0] = 255
    return Sample("s", image, Box(8.0, 10.0, 102.0, 72.0), Camera.estimate(WIDTH, HEIGHT))


def test_a_detector_that_is_right_is_right_after_many_looks(sample: Sample) -> None:
    steady = detect_with_augmentation(Fake(), sample, views=3)
    torch.testing.assert_close(steady.keypoints_px, TRUE_PX)
    torch.testing.assert_close(steady.joints_root_m, TRUE_M)
    torch.testing.assert_close(steady.sigma_px, torch.full((24,), 2.0))
    torch.testing.assert_close(steady.confidence, torch.full((24,), 0.9))
    assert steady.mask_box == sample.box.square(1.2)


def test_the_mean_of_sixteen_looks_errs_a_quarter_as_far(sample: Sample) -> None:
    """Independent errors: sqrt(16) = 4; a half is allowed."""
    one, many = (
        Fake(noise_px=4.0).detect(sample),
        detect_with_augmentation(Fake(noise_px=4.0), sample, views=8),
    )
    off = [(look.keypoints_px - TRUE_PX).norm(dim=-1).mean() for look in (one, many)]
    assert off[1] < off[0] / 2


def test_a_sure_look_outweighs_an_unsure_one(sample: Sample) -> None:
    """sigma 1 and 3: weights .9 and .1, so a keypoint 10 pixels off at the unsure look moves by 1."""

    class Unsure(Fake):
        def detect(self, sample: Sample) -> Detection:
            seen = super().detect(sample)
            if sample.image[0, 0, 0]:
                return dataclasses.replace(seen, sigma_px=torch.full((24,), 1.0))
            moved = seen.keypoints_px + torch.tensor([0.0, 10.0])
            return dataclasses.replace(seen, keypoints_px=moved, sigma_px=torch.full((24,), 3.0))

    steady = detect_with_augmentation(Unsure(), sample, views=1)
    torch.testing.assert_close(steady.keypoints_px, TRUE_PX + torch.tensor([0.0, 1.0]))


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


def test_what_was_seen_before_is_not_looked_at_again(sample: Sample) -> None:
    """One view of which the straight look is known: what is left is its mirror image."""
    detector = Fake()
    first = dataclasses.replace(Fake().detect(sample), keypoints_px=TRUE_PX + torch.tensor([4.0, 0.0]))
    steady = detect_with_augmentation(detector, sample, views=1, first=first)
    assert detector.looks == 1
    middle = TRUE_PX + torch.tensor([2.0, 0.0])  # equally sure
    torch.testing.assert_close(steady.keypoints_px, middle)


@pytest.mark.parametrize(("is_flip_tested", "passes"), [(True, [2]), (False, [5])])
def test_a_batch_detector_is_asked_once_and_for_mirrors_only_where_it_sees_none(
    is_flip_tested: bool, passes: list[int], sample: Sample
) -> None:
    asked: list[int] = []

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
            asked.append(len(samples))
            return [self.one.detect(each) for each in samples]

    steady = detect_with_augmentation(Batched(), sample, views=3, first=Fake().detect(sample))
    assert asked == passes
    torch.testing.assert_close(steady.keypoints_px, TRUE_PX)


def test_a_detector_of_images_alone_gives_no_joints(sample: Sample) -> None:
    assert detect_with_augmentation(Fake(in_space=False), sample, views=2).joints_root_m is None


def test_the_same_seed_takes_the_same_looks(sample: Sample) -> None:
    first, again = (detect_with_augmentation(Fake(noise_px=1.0), sample, views=2, seed=3) for _ in range(2))
    assert torch.equal(first.keypoints_px, again.keypoints_px)
