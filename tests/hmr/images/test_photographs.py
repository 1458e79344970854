"""Photographs of every mode and size are read as upright RGB."""

import numpy as np
import pytest
import torch
from PIL import Image

from hmr.images import photographs as photo_module
from hmr.images.photographs import MAX_PIXELS, load_photo, photo_of, read_photo, sample_of
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


def test_cmyk_is_read(tmp_path):
    photo = read_photo(save(tmp_path / "a.jpg", np.full((24, 32, 3), 200, np.uint8), "CMYK"))
    assert photo.shape == (24, 32, 3)
    assert abs(int(photo.mean()) - 200) < 12


def test_exif_rotation_is_applied(tmp_path):
    """EXIF orientation 6: the top of the image is stored at the right."""
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[:, 24:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).rotate(180).save(tmp_path / "a.jpg", exif=exif, quality=100)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.shape == (32, 24, 3)
    assert photo[:6].mean() > 200
    assert photo[12:].mean() < 50


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("1", "png"), ("LA", "png"), ("P", "gif"), ("I;16", "tiff"), ("F", "tiff"), ("YCbCr", "jpg")],
)
def test_every_mode_of_pillow_becomes_8_bit_rgb(tmp_path, mode, ending):
    values = RAMP.astype({"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8))
    photo = read_photo(save(tmp_path / f"a.{ending}", values, mode))
    assert photo.dtype == np.uint8
    assert photo.shape == (24, 32, 3)
    assert (
        photo[-1, -1].min() > 200 > 40 > photo[0, 0].max()
    )  # dark at the top left, light at the bottom right


def test_a_palette_may_be_transparent(tmp_path):
    image = Image.new("P", (32, 24), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(0, (0, 0, 16, 24))
    image.save(tmp_path / "a.png", transparency=0)
    photo = read_photo(tmp_path / "a.png")
    assert photo[0, 0].tolist() == [128, 128, 128]
    assert photo[0, -1].tolist() == [255, 0, 0]


def test_a_photograph_of_100_megapixels_is_downsampled(tmp_path):
    image = Image.new("L", (12_500, 8_000), 40)
    image.paste(220, (0, 0, 6_250, 8_000))
    image.save(tmp_path / "a.jpg")
    photo = load_photo(tmp_path / "a.jpg")
    height, width = photo.image.shape[:2]
    assert 0.95 * MAX_PIXELS < width * height <= MAX_PIXELS
    assert photo.file_size == (12_500, 8_000)
    assert width / height == pytest.approx(12_500 / 8_000, rel=1e-3)
    assert abs(int(photo.image[0, 0, 0]) - 220) < 3 > abs(int(photo.image[-1, -1, 2]) - 40)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "I;16", "P"])
def test_large_photographs_of_any_mode_are_downsampled(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 300)
    ending = "tiff" if mode in ("CMYK", "I;16") else "png"
    values = RAMP.astype(np.uint16) * 257 if mode == "I;16" else RAMP.astype(np.uint8)
    photo = load_photo(save(tmp_path / f"a.{ending}", values, mode if mode != "I;16" else None))
    assert photo.image.shape == (15, 20, 3)  # 32 x 24 times sqrt(300 / 768) = 0.625
    assert photo.image[-1, -1].min() > 200 > 40 > photo.image[0, 0].max()


def test_boxes_and_cameras_of_a_downsampled_photograph_map_to_the_file(tmp_path, monkeypatch):
    """A rotated file of 32 x 24 pixels: upright 24 x 32, downsampled by 2."""
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 192)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    photo = load_photo(tmp_path / "a.jpg")
    assert photo.file_size == (24, 32)
    assert photo.image.shape == (16, 12, 3)
    assert photo.scale == 0.5
    assert photo.box_in_image(Box(4.0, 8.0, 20.0, 30.0)) == Box(2.0, 4.0, 10.0, 15.0)
    assert photo.box_in_file(Box(2.0, 4.0, 10.0, 15.0)) == Box(4.0, 8.0, 20.0, 30.0)
    here, point = Camera.estimate(12, 16), torch.tensor([0.3, -0.2, 3.0])
    in_file = here.resize(*photo.file_size)
    assert (in_file.width, in_file.height) == (24, 32)
    torch.testing.assert_close(in_file.project(point), 2 * here.project(point))
    assert in_file == Camera.estimate(24, 32)
    assert photo.camera_in_image(Camera(50.0, 13.0, 15.0, 24, 32)) == Camera(25.0, 6.5, 7.5, 12, 16)


def test_pixels_without_a_file_have_scale_1():
    photo = photo_of(np.zeros((20, 30, 3), np.uint8))
    assert photo.file_size == (30, 20)
    assert photo.scale == 1


def test_a_file_that_is_not_a_photograph_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_photo(tmp_path / "gone.jpg")
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "a.png", RAMP.astype(np.uint8)).read_bytes()[:60])
    with pytest.raises(ValueError, match="not an image"):
        read_photo(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="2 x 2"):
        read_photo(save(tmp_path / "b.png", np.zeros((2, 2, 3), np.uint8)))


def test_the_id_of_a_sample_is_a_hash_of_pixels_and_box():
    image, box = np.zeros((20, 30, 3), np.uint8), Box(0.0, 0.0, 10.0, 10.0)
    sample = sample_of(image, box)
    assert sample.camera == Camera.estimate(30, 20)
    known = Camera(50.0, 14.0, 9.0, 30, 20)
    assert sample_of(image, box, known).camera == known
    assert sample_of(image, box, known).id == sample.id
    assert sample.id == sample_of(image.copy(), box).id
    assert sample.id != sample_of(image, Box(0.0, 0.0, 11.0, 10.0)).id
