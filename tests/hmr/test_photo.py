"""Photographs as people have them."""

import numpy as np
import pytest
from PIL import Image

from hmr.data.photo import read_photo, sample_of
from hmr.types import Box, Camera

RAMP = np.linspace(0, 255, 24 * 32).reshape(24, 32)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_grey_becomes_three_equal_channels(tmp_path):
    photo = read_photo(save(tmp_path / "a.png", RAMP.astype(np.uint8)))
    assert photo.shape == (24, 32, 3)
    np.testing.assert_array_equal(photo[..., 0], RAMP.astype(np.uint8))
    np.testing.assert_array_equal(photo[..., 0], photo[..., 2])


def test_sixteen_bits_keep_their_range(tmp_path):
    photo = read_photo(save(tmp_path / "a.png", (RAMP * 257).astype(np.uint16)))
    assert np.abs(photo[..., 0].astype(int) - RAMP).max() <= 1


def test_transparent_pixels_become_grey(tmp_path):
    pixels = np.zeros((24, 32, 4), np.uint8)
    pixels[:, 16:] = (255, 0, 0, 255)
    photo = read_photo(save(tmp_path / "a.png", pixels))
    assert photo[0, 0].tolist() == [128, 128, 128]
    assert photo[0, -1].tolist() == [255, 0, 0]


def test_print_colours_are_read(tmp_path):
    photo = read_photo(save(tmp_path / "a.jpg", np.full((24, 32, 3), 200, np.uint8), "CMYK"))
    assert photo.shape == (24, 32, 3)
    assert abs(int(photo.mean()) - 200) < 12


def test_a_turned_camera_gives_an_upright_photo(tmp_path):
    """EXIF orientation 6: the camera was held a quarter turn to the left, the top is stored at the right."""
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[:, 24:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).rotate(180).save(tmp_path / "a.jpg", exif=exif, quality=100)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.shape == (32, 24, 3)
    assert photo[:6].mean() > 200
    assert photo[12:].mean() < 50


def test_what_is_no_photograph_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_photo(tmp_path / "gone.jpg")
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "a.png", RAMP.astype(np.uint8)).read_bytes()[:60])
    with pytest.raises(ValueError, match="not an image"):
        read_photo(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="2 x 2"):
        read_photo(save(tmp_path / "b.png", np.zeros((2, 2, 3), np.uint8)))


def test_a_sample_is_named_by_what_it_shows():
    image, box = np.zeros((20, 30, 3), np.uint8), Box(0.0, 0.0, 10.0, 10.0)
    sample = sample_of(image, box)
    assert sample.camera == Camera.estimate(30, 20)
    assert sample.id == sample_of(image.copy(), box).id
    assert sample.id != sample_of(image, Box(0.0, 0.0, 11.0, 10.0)).id
