"""Photographs of every mode and size are read as upright RGB."""

import contextlib
import io
import resource
import struct
import zlib

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


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of that size in its header, with a few pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    every = ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in every
    )


def cut_gif() -> bytes:
    file = io.BytesIO()
    Image.new("P", (50, 50)).save(file, "GIF")
    return file.getvalue()[:40]


DAMAGED = {
    "empty": (b"", "not an image"),
    "a cut colour profile": (png(20, 20, (b"iCCP", b"a")), "not an image"),
    "a cut GIF": (cut_gif(), "not an image"),
    "a line": (png(178_000_000, 1), "178000000 x 1 pixels; the minimum is 16"),
    "a bomb": (png(9_000, 8_000), "9000 x 8000 pixels; at most 64,000,000 are read"),
    "beyond Pillow's limit": (png(20_000, 20_000), "not an image .* decompression bomb"),
}


@pytest.mark.parametrize(("content", "sentence"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_photograph_is_refused(tmp_path, content, sentence):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.png: {sentence}"):
        load_photo(tmp_path / "a.png")


@pytest.mark.slow
def test_a_huge_photograph_is_refused_before_it_is_decoded(tmp_path):
    """A WebP of 3 kilobytes that would take more than a gigabyte."""
    Image.new("1", (9_000, 8_000)).save(tmp_path / "a.webp", lossless=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="at most 64,000,000 are read"):
        load_photo(tmp_path / "a.webp")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss == before


@pytest.mark.slow
def test_every_change_of_a_photograph_is_read_or_refused(tmp_path):
    random, files = np.random.default_rng(0), []
    for ending, options in {
        "png": {"icc_profile": bytes(200)},
        "jpg": {},
        "webp": {},
        "tiff": {},
        "bmp": {},
    }.items():
        path = save(tmp_path / f"a.{ending}", RAMP.astype(np.uint8), "RGB", **options)
        files.append((path, path.read_bytes()))
    for number in range(1_000):
        path, content = files[number % len(files)]
        damaged = bytearray(content)
        for at in random.integers(0, min(300, len(content)), 3):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, 2 * len(damaged))])
        with contextlib.suppress(ValueError):
            assert load_photo(path).image.dtype == np.uint8


def test_the_id_of_a_sample_is_a_hash_of_pixels_and_box():
    image, box = np.zeros((20, 30, 3), np.uint8), Box(0.0, 0.0, 10.0, 10.0)
    sample = sample_of(image, box)
    assert sample.camera == Camera.estimate(30, 20)
    known = Camera(50.0, 14.0, 9.0, 30, 20)
    assert sample_of(image, box, known).camera == known
    assert sample_of(image, box, known).id == sample.id
    assert sample.id == sample_of(image.copy(), box).id
    assert sample.id != sample_of(image, Box(0.0, 0.0, 11.0, 10.0)).id
