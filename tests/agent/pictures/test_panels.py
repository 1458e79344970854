"""Images for a vision-capable backend: separate or as sheets, each with its label."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from agent.context import CritiqueSettings
from agent.pictures.badges import StoredRows, joined_png, stored_png
from agent.pictures.panels import PANEL_PX, Views, draw_views, hypothesis_parts, photo_part, shown_at_once
from hmr.render.overlay import panel
from hmr.render.raster import RasterRenderer
from hmr.types import BodyParams
from tests.agent.critique_case import planted_fault
from tests.agent.tools.tool_case import case_of, standing


def views(count: int) -> dict[str, Views]:
    """One even grey each."""
    return {
        label: Views(*(np.full((64, 64, 3), 20 * place, np.uint8) for _ in range(2)))
        for place, label in enumerate("ABCDEFGH"[:count])
    }


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_separate_images_are_in_the_order_of_labels():
    parts = hypothesis_parts(views(3))
    assert [part.caption for part in parts] == ["hypothesis A", "hypothesis B", "hypothesis C"]
    assert len({part.sha256 for part in parts}) == 3


def test_a_montage_puts_six_on_a_sheet():
    first, second = hypothesis_parts(views(8), "montage")
    assert first.caption == "hypotheses A, B, C, D, E, F"
    assert second.caption == "hypotheses G, H"
    width, height = size(hypothesis_parts(views(1))[0].png)
    assert size(first.png) == (2 * (width + 8) + 8, 3 * (height + 8) + 8)
    assert size(second.png) == (2 * (width + 8) + 8, height + 8 + 8)


def test_the_label_is_part_of_the_picture():
    [under_a] = hypothesis_parts({"A": views(1)["A"]})
    [under_b] = hypothesis_parts({"B": views(1)["A"]})
    assert under_a.sha256 != under_b.sha256


@pytest.mark.parametrize(("size", "label"), [(64, "A"), (224, "Q"), (224, "AB")])
def test_a_badge_equals_the_one_that_panel_draws(size, label):
    rng = np.random.default_rng(size)
    overlaid, side = (rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for _ in range(2))
    [part] = hypothesis_parts({label: Views(overlaid, side)})
    shown = np.asarray(Image.open(io.BytesIO(part.png)))
    assert np.array_equal(shown, panel(None, overlaid, side, label))


def test_a_panel_with_the_same_label_is_encoded_once():
    view = views(2)["B"]
    [first], [again], [other] = (hypothesis_parts({label: view}) for label in "AAB")
    assert first is again
    assert other.png != first.png


def test_a_png_from_pieces_equals_the_png_of_the_whole():
    """By the standard: every chunk's checksum, and the one at the end of what the chunks hold together."""
    image = np.random.default_rng(0).integers(0, 255, (90, 300, 3), dtype=np.uint8)
    pieces = [StoredRows.of(image[:13]), StoredRows.of(image[13:14]), StoredRows.of(image[14:])]
    for png in (stored_png(image), joined_png(pieces)):
        held, at = b"", 8
        while at < len(png):
            size, kind = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
            assert zlib.crc32(png[at + 4 : at + 8 + size]) == int.from_bytes(
                png[at + 8 + size : at + 12 + size]
            )
            held += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
            at += size + 12
        rows = np.frombuffer(zlib.decompress(held), np.uint8).reshape(
            90, 1 + 3 * 300
        )  # it checks the Adler-32
        assert np.array_equal(rows[:, 1:].reshape(image.shape), image)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image)


def test_without_views_there_are_no_images():
    assert hypothesis_parts({}) == hypothesis_parts({}, "montage") == []


@pytest.mark.parametrize(
    ("max_images", "pictures", "hypotheses"),
    [
        (None, "separate", None),
        (9, "separate", 8),
        (1, "separate", 0),
        (3, "montage", 12),
        (None, "montage", None),
    ],
)
def test_how_many_hypotheses_fit_beside_the_photograph(max_images, pictures, hypotheses):
    assert shown_at_once(max_images, pictures) == hypotheses


def test_a_fault_shows_in_the_side_view_and_over_the_photograph():
    case = case_of(BodyParams.stack([standing(), standing(), planted_fault()]))
    right, same, bent = draw_views(case, RasterRenderer(), 1.25)
    assert right.overlay.shape == (PANEL_PX, PANEL_PX, 3)
    assert right.sha256 == same.sha256 != bent.sha256
    assert (right.side != bent.side).any(axis=-1).mean() > 0.02  # a shin out of place
    assert size(photo_part(case, 1.25).png) == (PANEL_PX, PANEL_PX)


def test_an_unknown_kind_of_pictures_is_refused():
    with pytest.raises(ValueError, match="separate, montage, not 'collage'"):
        CritiqueSettings(pictures="collage")
