"""Pictures agree with the frames that they are drawn from."""

import numpy as np
import pytest
import trimesh

from hmr.render.overlay import (
    SIDE_DISTANCE_M,
    body_layer,
    montage,
    overlay,
    panel,
    rotate_to_side,
    score_color,
    score_legend,
    side_view,
    zoom,
)
from hmr.render.raster import RasterRenderer
from hmr.types import Camera, Frame

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def _frame(mask):
    mask = np.asarray(mask, bool)[None]
    normals = mask[..., None] * np.array([0, 0, -1], np.float32)
    return Frame(np.where(mask, 2, 0).astype(np.float32), normals, mask, np.where(mask, 0, -1))


def _disc():
    rows, columns = np.mgrid[:60, :80]
    return (rows - 30) ** 2 + (columns - 40) ** 2 < 400


def test_an_overlay_changes_the_photo_within_the_mask_only():
    mask = _disc()
    picture = overlay(PHOTO, _frame(mask))
    np.testing.assert_array_equal(picture[~mask], PHOTO[~mask])
    assert picture[mask].std() < 0.4 * PHOTO[mask].std()  # flat clay over noise
    np.testing.assert_array_equal(overlay(PHOTO, _frame(mask), alpha=0.0), PHOTO)


def test_a_surface_behind_its_surroundings_is_darker():
    """A wall with a strip in front of it: the wall is darker beside the strip, and not farther away."""
    depth = np.full((112, 112), 3.0, np.float32)
    depth[:, 50:60] = 2.5
    mask = np.ones((112, 112), bool)
    normals = np.broadcast_to(np.array([0, 0, -1], np.float32), (112, 112, 3))
    frame = Frame(depth[None], normals[None], mask[None], np.zeros((1, 112, 112), int))
    drawn = overlay(np.zeros((112, 112, 3), np.uint8), frame, alpha=1.0)[56, :, 0].astype(int)
    assert drawn[55] == drawn[5] == drawn[105]  # the strip, and the wall far from it
    assert drawn[49] < 0.8 * drawn[5]
    assert drawn[60] == pytest.approx(drawn[49], abs=1)


def test_a_larger_frame_smooths_the_outline():
    # One of four pixels of the frame is covered, so a quarter of the clay over three quarters of the photo.
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    white, red = np.full((2, 2, 3), 255, np.uint8), (0.5, 0.0, 0.0)
    quarter = overlay(white, _frame(mask), red, alpha=1.0).astype(float)
    full = overlay(white, _frame(np.kron(mask, np.ones((2, 2)))[:4, :4]), red, alpha=1.0).astype(float)
    np.testing.assert_allclose(quarter[0, 0], 0.75 * 255 + 0.25 * full[0, 0], atol=1)


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"\(60, 80\) pixels is not an integer multiple of a photo of \(50, 80\)"
    ):
        overlay(PHOTO[:50], _frame(_disc()))


def test_zoom_keeps_the_view():
    camera = Camera(50.0, 31.0, 22.0, 64, 48)
    assert zoom(camera, 3) == Camera(150.0, 93.0, 66.0, 192, 144)


def test_rotation_to_the_side_is_rigid_and_moves_near_points_left():
    generator = np.random.default_rng(0)
    body, pelvis = generator.normal(size=(2, 7, 3)), generator.normal(size=(2, 3))
    turned = rotate_to_side(body, pelvis)
    before, after = (points[:, :, None] - points[:, None] for points in (body, turned))
    np.testing.assert_allclose(np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1), atol=1e-9)
    assert (np.linalg.det(after[:, 0, 1:4]) * np.linalg.det(before[:, 0, 1:4]) > 0).all()  # no mirror
    np.testing.assert_array_equal(rotate_to_side(pelvis[:, None], pelvis), [[[0, 0, SIDE_DISTANCE_M]]] * 2)
    towards_camera = rotate_to_side(pelvis[:, None] - [0, 0, 0.5], pelvis)
    np.testing.assert_allclose(towards_camera[:, 0, 0], -0.5)


def test_side_views_have_a_fixed_scale():
    # 1.2 m tall, .3 m deep, 1.8 m broad; 2.4 m fill 96 pixels, so from the side 48 rows and 12 columns.
    slab = trimesh.creation.box(extents=(1.8, 1.2, 0.3)).apply_translation((0.4, 0, 5))
    vertices, pelvis = np.asarray(slab.vertices)[None], np.array([[0.4, 0.0, 5.0]])
    color = (0.1, 0.1, 0.9)
    view = side_view(vertices, np.asarray(slab.faces), pelvis, RasterRenderer(), 96, color)[0].astype(int)
    rows, columns = np.nonzero(view[..., 2] - view[..., 0] > 40)
    assert np.ptp(columns) + 1 == pytest.approx(12, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(48, abs=8)  # its near side is closer than the pelvis, so larger
    assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 47.5), abs=1)


def test_panels_show_their_label_and_the_given_views():
    photo, over, side = (np.full((90, 90, 3), value, np.uint8) for value in (10, 90, 200))
    shown = panel(photo, over, side, "A")
    np.testing.assert_array_equal(shown[40:90, :90], photo[40:])
    np.testing.assert_array_equal(shown[40:90, -90:], side[40:])
    assert (shown[:30, :30] != panel(photo, over, side, "B")[:30, :30]).any()
    without_photo = panel(None, over, side, "A")
    assert without_photo.shape[0] == shown.shape[0]
    assert without_photo.shape[1] < shown.shape[1]
    assert (panel(photo, over, side, "A", caption="score 71")[90:] != shown[90:]).any()


def test_a_montage_fills_rows_first():
    tiles = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = montage(tiles, columns=2)
    order = [np.argwhere((sheet == value).all(-1)).mean(0) for value in (10, 20, 30)]
    assert order[0][0] == order[1][0] < order[2][0]
    assert order[0][1] == order[2][1] < order[1][1]
    assert all((sheet == value).all(-1).sum() == 600 for value in (10, 20, 30))


def test_a_failed_score_is_grey_and_good_ones_are_greener():
    assert len(set(score_color(None))) == 1
    (bad_red, bad_green, _), (good_red, good_green, _) = score_color(0.0), score_color(100.0)
    assert bad_red > bad_green
    assert good_green > good_red


def test_the_legend_has_the_colours_of_all_scores():
    legend = score_legend(500)
    assert legend.shape[1] == 500
    shown = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    for score in (0.0, 100.0, None):
        assert tuple(round(255 * channel) for channel in score_color(score)) in shown


def test_a_layer_over_the_photo_is_the_overlay():
    photo = PHOTO[:, :60]
    mask = np.zeros((120, 120), bool)
    mask[11:90, 15:81] = True  # odd edges: some pixels of the photo are covered in part
    layer = body_layer(_frame(mask), 60).astype(np.float32)
    opacity = layer[..., 3:] / 255
    composed = photo * (1 - opacity) + layer[..., :3] * opacity
    assert np.abs(composed - overlay(photo, _frame(mask), alpha=1.0)).max() <= 2
    assert {0.25, 0.5} <= set(np.round(np.unique(opacity) * 4) / 4)
    assert (layer[0, 0] == 0).all()
