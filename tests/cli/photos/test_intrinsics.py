"""The camera options: what is read, in which pixels, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.photos.intrinsics import Intrinsics, camera_line, describe_camera, parse_intrinsics
from hmr.images.photographs import Photo, photo_of
from hmr.types import Camera

PHOTO = photo_of(np.zeros((72, 64, 3), np.uint8))
REDUCED = Photo(np.zeros((72, 64, 3), np.uint8), (128, 144))


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "camera.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_unknown_is_estimated():
    assert parse_intrinsics(None, None, None).camera(PHOTO) == Camera.estimate(64, 72)
    assert parse_intrinsics(80.0, None, None).camera(PHOTO) == Camera(80.0, 32.0, 36.0, 64, 72)
    estimate = Camera.estimate(64, 72)
    assert parse_intrinsics(None, "30,40.5", None).camera(PHOTO) == Camera(
        estimate.focal_px, 30.0, 40.5, 64, 72
    )


def test_the_camera_of_a_reduced_photograph_is_scaled():
    in_file = Intrinsics(200.0, (60.0, 70.0)).camera(REDUCED)
    assert in_file == Camera(200.0, 60.0, 70.0, 128, 144)
    assert REDUCED.camera_in_image(in_file) == Camera(100.0, 30.0, 35.0, 64, 72)


@pytest.mark.parametrize(
    "content",
    [
        {"focal_px": 1480, "cx_px": 960.5, "cy_px": 540},
        {"K": [[1480, 0, 960.5], [0, 1480, 540], [0, 0, 1]]},
        {"K": [[1475, 0.2, 960.5], [0, 1485, 540], [0, 0, 1]]},
    ],
)
def test_both_forms_of_a_camera_file(tmp_path, content):
    assert parse_intrinsics(None, None, saved(tmp_path, content)) == Intrinsics(1480.0, (960.5, 540.0))


def K(fx: float = 1480, skew: float = 0, fy: float = 1480, lower: float = 0, last: float = 1) -> dict:
    return {"K": [[fx, skew, 960], [lower, fy, 540], [0, 0, last]]}


PIXELS = {"focal_px": 1480, "cx_px": 960, "cy_px": 540}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PIXELS | {"focal_px": 0}, "focal_px of .*camera.json must be a positive number of pixels, not 0"),
        (PIXELS | {"focal_px": float("nan")}, "focal_px of .*camera.json has values that are not finite"),
        (PIXELS | {"cx_px": "left"}, "cx_px of .*camera.json is not an array of numbers"),
        (PIXELS | {"cy_px": [1, 2]}, r"cy_px of .*camera.json has shape \(2,\), not \(\)"),
        ({"focal_px": 1480}, "camera.json lacks cx_px, cy_px; it holds focal_px"),
        (
            PIXELS | {"k1": 0.1},
            "camera.json holds k1; a camera file holds focal_px, cx_px, cy_px, or K alone",
        ),
        (PIXELS | K(), "camera.json holds cx_px, cy_px, focal_px; a camera file holds"),
        ([1480, 960, 540], "camera.json holds a JSON list, not an object"),
        ("focal: 3", "camera.json is not a JSON file"),
        (K(fy=1510), "K of .*camera.json has the focal lengths 1480 and 1510; they may differ by 1%"),
        (K(fx=-1480, fy=-1480), "fx of K of .*camera.json must be a positive number of pixels, not -1480"),
        (K(skew=9), "K of .*camera.json has the skew 9"),
        (K(lower=1), r"must be \[\[fx, 0, cx\]"),
        (K(last=2), r"must be \[\[fx, 0, cx\]"),
        ({"K": [[1480, 0], [0, 1480]]}, r"K of .*camera.json has shape \(2, 2\), not \(3, 3\)"),
    ],
)
def test_a_file_that_is_not_a_camera_is_one_sentence(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_intrinsics(None, None, saved(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("focal", "center", "words"),
    [
        (0.0, None, "--focal must be a positive number of pixels, not 0"),
        (-5.0, None, "--focal must be a positive number of pixels, not -5"),
        (float("inf"), None, "--focal must be a positive number of pixels, not inf"),
        (None, "1,2,3", "--center takes two numbers X,Y in pixels, not '1,2,3'"),
        (None, "1,nan", "--center takes two finite numbers X,Y in pixels, not '1,nan'"),
    ],
)
def test_options_that_are_not_a_camera(focal, center, words):
    with pytest.raises(ValueError, match=words):
        parse_intrinsics(focal, center, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Intrinsics(1e-9), "has a focal length from 7.2 to 7200 px, not 1e-09; is it in millimetres?"),
        (Intrinsics(5.0), "not 5; is it in millimetres?"),
        (Intrinsics(1e300), r"not 1e\+300"),
        (Intrinsics(None, (1e8, 0.0)), "the principal point 1e[+]08, 0 is far outside of the photograph"),
    ],
)
def test_a_camera_that_no_photograph_has_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        given.camera(PHOTO)


def test_the_camera_is_reported_with_the_source_of_its_focal_length():
    camera = describe_camera(Camera(96.333, 32.0, 36.0, 64, 72), is_estimated=True)
    assert camera == {"focal_px": 96.3, "cx_px": 32.0, "cy_px": 36.0, "focal_is_estimated": True}
    assert camera_line(camera) == (
        "focal length 96.3 px (estimated: the image diagonal), principal point 32, 36"
    )
    assert "px (given)" in camera_line(camera | {"focal_is_estimated": False})
