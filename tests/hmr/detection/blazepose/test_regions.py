"""Crops at any angle, and back."""

import math

import numpy as np
import pytest
import torch

from hmr.detection.blazepose.regions import ImagePyramid, Region, region_of_box, region_of_keypoints
from hmr.types import Box


def waves(width: int, height: int) -> np.ndarray:
    """A smooth picture, so that resampling changes little."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 17), np.cos(y / 13), np.sin((x + y) / 23)]
    return (127.5 + 120 * np.stack(channels, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("roll", [0.0, 0.4, math.pi / 2, -2.5])
def test_positions_map_to_the_photograph_and_back(roll: float):
    region = Region(40.0, 70.0, 30.0, roll)
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(region.from_image(region.to_image(points)), points, rtol=0, atol=1e-5)
    corners = region.to_image(torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]))
    bounds = region.bounds
    torch.testing.assert_close(corners.amin(dim=0), torch.tensor([bounds.x0, bounds.y0]))
    torch.testing.assert_close(corners.amax(dim=0), torch.tensor([bounds.x1, bounds.y1]))


def test_a_person_lying_with_the_head_to_the_right_is_turned_upright():
    """The keypoint for the size, 40 pixels right of the hips, is .4 of the crop above its centre (crop: 100 pixels)."""
    region = region_of_keypoints((50.0, 60.0), (90.0, 60.0))
    assert region.side == 100
    assert region.roll == pytest.approx(math.pi / 2)
    torch.testing.assert_close(region.from_image(torch.tensor([90.0, 60.0])), torch.tensor([0.5, 0.1]))


def test_a_crop_of_whole_pixels_is_the_picture():
    image = waves(80, 60)
    (crop,) = ImagePyramid(image).sample([Region(40.0, 30.0, 32.0)], 32)
    expected = image[14:46, 24:56] / 255
    np.testing.assert_allclose(crop.permute(1, 2, 0).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("side", [40.0, 200.0])  # enlarged, and from a reduced level
def test_a_turned_picture_gives_the_same_crop(side: float):
    """A quarter turn anticlockwise takes (x, y) to (y, width - x), and a roll to a roll less pi / 2."""
    image = waves(300, 240)
    (crop,) = ImagePyramid(image).sample([Region(140.0, 120.0, side, 0.3)], 64)
    turned = ImagePyramid(np.rot90(image).copy())
    (other,) = turned.sample([Region(120.0, 300 - 140.0, side, 0.3 - math.pi / 2)], 64)
    torch.testing.assert_close(other, crop, rtol=0, atol=0.02)


def test_beyond_the_border_is_grey():
    image = np.zeros((20, 20, 3), np.uint8)
    (crop,) = ImagePyramid(image).sample([Region(200.0, -90.0, 40.0, 0.7)], 16)
    torch.testing.assert_close(crop, torch.full_like(crop, 128 / 255))
    (half,) = ImagePyramid(image).sample([Region(20.0, 10.0, 16.0)], 16)
    assert half[:, :, :7].max() == 0
    torch.testing.assert_close(half[:, :, 9:], torch.full_like(half[:, :, 9:], 128 / 255))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (700, 2, 3)])
def test_pictures_of_any_shape_can_be_sampled(shape: tuple[int, int, int]):
    crops = ImagePyramid(np.full(shape, 50, np.uint8)).sample(
        [region_of_box(Box(-5.0, -5.0, 300.0, 900.0))], 32
    )
    assert crops.shape == (1, 3, 32, 32)
    assert crops.isfinite().all()
