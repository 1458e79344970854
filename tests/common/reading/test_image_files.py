"""Untrusted images: refused with one sentence, before they take memory."""

import io

import pytest
from PIL import Image

from common.reading.image_files import image_size, open_image


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return file.getvalue()


def test_the_size_is_read_from_the_header(tmp_path):
    (tmp_path / "a.png").write_bytes(png((50, 40))[:50])
    assert image_size(tmp_path / "a.png") == (50, 40)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"text", "the mask of a: not an image that can be read"),
        (png((50, 40))[:45], "the mask of a: not an image that can be read"),
        (png((8_001, 8_000)), "the mask of a: 8001 x 8000 pixels; at most 64,000,000 are read"),
        (png((8, 40)), "the mask of a: 8 x 40 pixels; the minimum is 16 per side"),
    ],
    ids=["text", "cut", "a bomb", "tiny"],
)
def test_what_cannot_be_decoded_is_refused(content, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"), open_image(content, "the mask of a", 16) as image:
        image.load()


def test_a_large_jpeg_may_be_decoded_at_reduced_size():
    file = io.BytesIO()
    Image.new("L", (8_001, 8_000)).save(file, "JPEG")
    with open_image(file.getvalue()) as image:
        image.draft(None, (1_000, 1_000))
        image.load()
        assert image.size == (1_001, 1_000)


def test_a_missing_file_is_no_bad_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        image_size(tmp_path / "a.png")
