"""Crops agree with `Camera.crop`, and encoded pictures can be read back."""

import io

import numpy as np
import pytest
from PIL import Image

from hmr.images.crops import OUTSIDE, crop_image, encode_jpeg, encode_png
from hmr.types import Box, Camera

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(20.3, 10.7, 60.3, 50.7), 40),
        (Box(30.1, 22.6, 54.1, 46.6), 96),
        (Box(-55.4, -40.2, 144.6, 159.8), 50),
        (Box(-300.0, -310.5, 380.0, 369.5), 64),
    ],
    ids=["same scale", "enlarged", "shrunk, over the border", "shrunk tenfold"],
)
def test_a_dot_lands_where_the_cropped_camera_projects_it(box, size):
    dark = np.zeros((60, 80, 3), np.uint8)
    dotted = dark.copy()
    dotted[26:35, 36:45] = 255  # centred on (40.5, 30.5)
    light = crop_image(dotted, box, size)[..., 0].astype(float) - crop_image(dark, box, size)[..., 0]
    rows, columns = np.mgrid[:size, :size] + 0.5
    seen = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    camera = Camera(80.0, 40.5, 30.5, 80, 60).crop(box, size)  # its principal point is the dot
    assert seen == pytest.approx((camera.cx_px, camera.cy_px), abs=0.1)


def test_a_crop_is_grey_beyond_the_border_and_exact_within():
    crop = crop_image(PHOTO, Box(-20.0, 0.0, 60.0, 80.0), 80)
    np.testing.assert_array_equal(crop[:60, 20:], PHOTO[:, :60])
    assert (crop[:, :20] == OUTSIDE).all()
    assert (crop[60:] == OUTSIDE).all()
    for beyond in (Box(100.0, 0.0, 120.0, 20.0), Box(-40.0, -40.0, -20.0, -20.0)):
        assert (crop_image(PHOTO, beyond, 16) == OUTSIDE).all()


def test_encoded_pictures_can_be_read_back():
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(PHOTO)))), PHOTO)
    smooth = np.broadcast_to(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], (60, 80, 3)).copy()
    back = np.asarray(Image.open(io.BytesIO(encode_jpeg(smooth)))).astype(int)
    assert np.abs(back - smooth).max() < 10
