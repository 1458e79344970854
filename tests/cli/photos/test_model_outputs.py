"""Outputs of other models in their true layouts, and a worked example of the crop's camera.

HMR2: what `demo.py` of github.com/shubham-goel/4D-Humans has in `out` and `batch` (`hmr2/datasets/vitdet_dataset.py`),
and `cam_crop_to_full` of `hmr2/utils/renderer.py`. CLIFF: the `np.savez` at the end of `demo.py --save_results` of
github.com/huawei-noah/noah-research.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.model_outputs import full_image_translation
from cli.photos.people import given_people
from hmr.body.model import Body
from hmr.types import Box

SIZE = (1280, 720)
UPRIGHT = np.diag([1.0, -1.0, -1.0])  # a half turn about x
KNEE = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a quarter turn about x


def hmr2(people: int = 1, group: int | None = None) -> dict[str, Any]:
    """The second person is 200 pixels to the left of the first."""
    lead = (people,) if group is None else (people, group)
    body_pose = np.tile(np.eye(3), (*lead, 23, 1, 1))
    body_pose[..., 3, :, :] = KNEE
    return {
        "global_orient": np.tile(UPRIGHT, (*lead, 1, 1, 1)).astype(np.float32),
        "body_pose": body_pose.astype(np.float32),
        "betas": np.tile(np.linspace(-1, 1, 10), (*lead, 1)).astype(np.float32),
        "pred_cam": np.tile(np.array([0.9, 0.05, 0.3], np.float32), (*lead, 1)),
        "box_center": np.array([[800 - 200 * number, 300] for number in range(people)], np.float32),
        "box_size": np.full(people, 400, np.float32),
        "img_size": np.tile(np.array(SIZE, np.float32), (people, 1)),
    }


def cliff(people: int = 1, form: str = "aa") -> dict[str, Any]:
    matrices = np.tile(np.eye(3), (people, 24, 1, 1))
    matrices[:, 0], matrices[:, 4] = UPRIGHT, KNEE
    rotvecs = np.zeros((people, 24, 3))
    rotvecs[:, 0, 0], rotvecs[:, 4, 0] = np.pi, np.pi / 2
    places = [[0.94 - 1.2 * number, 0.3, 8.0] for number in range(people)]
    return {
        "imgname": np.array(["photo.jpg"]),
        "pose": rotvecs.reshape(people, 72) if form == "aa" else matrices,
        "shape": np.zeros((people, 10)),
        "global_t": np.array(places),
        "pred_joints": np.zeros((people, 45, 3)),
        "focal_l": np.full(people, np.hypot(*SIZE)),
        "detection_all": np.array(
            [[0, 700 - 200 * n, 150, 900 - 200 * n, 550, 0.99, 0.99, 0] for n in range(people)]
        ),
    }


def saved(tmp_path: Path, content: dict[str, Any], name: str = "out.npz") -> Path:
    np.savez(tmp_path / name, **content)
    return tmp_path / name


def test_a_camera_of_a_crop_becomes_a_translation_in_the_image():
    """1 m is 0.9 * 400 / 2 = 180 pixels, so at a focal length of 25000 the depth is 138.9 m; the crop's centre is 160
    pixels to the right of the image's and 60 above."""
    camera = np.array([[[0.9, 0.05, 0.3]]])
    translation = full_image_translation(camera, np.array([[800.0, 300]]), np.array([400.0]), SIZE, 25000.0)
    np.testing.assert_allclose(translation, [[[160 / 180 + 0.05, -60 / 180 + 0.3, 25000 / 180]]])


def test_a_body_of_hmr2_is_where_its_crop_shows_it(tmp_path):
    """Points at the depth of the body's origin, in the crop of 256 pixels (focal length 5000) and in the image."""
    [(box, hypotheses)] = read_hypotheses(saved(tmp_path, hmr2()), SIZE, min_group=1)
    assert box is None
    assert hypotheses.camera.focal_px == 5000 / 256 * 1280 == 25000
    points = torch.tensor([[0.0, 0.0, 0.0], [0.4, -0.8, 0.0], [-0.3, 0.7, 0.0]])
    in_crop = 128 + 5000 * (points[:, :2] + torch.tensor([0.05, 0.3])) / (2 * 5000 / (256 * 0.9))
    expected = torch.tensor([800.0, 300.0]) + (in_crop - 128) * 400 / 256
    torch.testing.assert_close(hypotheses.camera.project(points + hypotheses.params.transl), expected)
    np.testing.assert_allclose(hypotheses.params.global_orient.abs(), [[np.pi, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(hypotheses.params.body_pose[0, 3], [np.pi / 2, 0, 0], atol=1e-5)
    assert hypotheses.params.body_pose[0].count_nonzero() == 1
    np.testing.assert_allclose(hypotheses.params.betas[0], np.linspace(-1, 1, 10), rtol=1e-6)


def test_one_person_of_hmr2_without_an_axis_of_people(tmp_path):
    with_axis = read_hypotheses(saved(tmp_path, hmr2()), SIZE, min_group=1)
    without = {key: value[0] for key, value in hmr2().items()}
    [(_, hypotheses)] = read_hypotheses(saved(tmp_path, without), SIZE, min_group=1)
    for key, value in vars(with_axis[0][1].params).items():
        assert torch.equal(getattr(hypotheses.params, key), value)


def test_several_hypotheses_in_the_layout_of_hmr2(tmp_path):
    people = read_hypotheses(saved(tmp_path, hmr2(people=2, group=3)), SIZE)
    assert [len(hypotheses) for _, hypotheses in people] == [3, 3]
    first, second = (hypotheses.params.transl[0, 0] for _, hypotheses in people)
    assert float(first - second) == pytest.approx(200 / 180)


@pytest.mark.parametrize("form", ["aa", "rotmat"])
def test_a_body_of_cliff_keeps_its_translation_and_box(tmp_path, form):
    [(box, hypotheses), _] = read_hypotheses(saved(tmp_path, cliff(2, form)), SIZE, min_group=1)
    assert box == Box(700.0, 150.0, 900.0, 550.0)
    assert hypotheses.camera.focal_px == pytest.approx(np.hypot(*SIZE))
    assert (hypotheses.camera.cx_px, hypotheses.camera.cy_px) == (640, 360)
    np.testing.assert_allclose(hypotheses.params.transl, [[0.94, 0.3, 8]], rtol=1e-6)
    np.testing.assert_allclose(hypotheses.params.global_orient.abs(), [[np.pi, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(hypotheses.params.body_pose[0, 3], [np.pi / 2, 0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            hmr2() | {"img_size": np.array([[720, 1280]], np.float32)},
            "image_size of .* is 720 x 1280, but the image is",
        ),
        (
            hmr2() | {"pred_cam": np.array([[-0.9, 0, 0]], np.float32)},
            "scale of pred_cam and box_size of .* positive",
        ),
        (hmr2() | {"body_pose": np.ones((1, 23, 3, 3))}, "body_pose of .* matrices that are not rotations"),
        (hmr2() | {"body_pose": np.zeros((1, 69))}, r"body_pose of .* shape \(1, 69\); 1 .* \(1, 23, 3, 3\)"),
        (hmr2(2) | {"betas": np.zeros((3, 10))}, r"betas of .* has shape \(3, 10\); 2 person\(s\) need"),
        (hmr2() | {"betas": np.full((1, 10), np.nan)}, "betas of .* has 10 NaN"),
        (
            cliff() | {"imgname": np.array(["a.jpg", "b.jpg"])},
            "holds 2 images; run CLIFF on the one photograph",
        ),
        (cliff(2) | {"focal_l": np.array([900.0, 1000])}, "focal_l of .* has 2 different values"),
        (cliff() | {"detection_all": np.zeros((3, 8))}, "detection_all of .* has shape"),
        (cliff() | {"pose": np.zeros((1, 69))}, r"pose of .* has shape \(1, 69\)"),
    ],
)
def test_an_output_that_does_not_fit_is_one_sentence(tmp_path, content, words):
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=words) as caught:
        read_hypotheses(path, SIZE, min_group=1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_bodies_of_two_models_form_one_group(body: Body, tmp_path):
    """The files list the people in opposite orders, and their cameras differ."""
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    files = [saved(tmp_path, cliff(2)), saved(tmp_path, reversed_people(hmr2(2)), "other.npz")]
    people = given_people(tmp_path / "a.png", files, body)
    single = given_people(tmp_path / "a.png", [saved(tmp_path, hmr2(2, group=2), "pair.npz")], body)
    for person, alone in zip(people, single, strict=True):
        assert len(person.hypotheses) == 2
        assert person.hypotheses.camera.focal_px == pytest.approx(np.hypot(*SIZE))
        joined, own = (each.hypotheses.params.transl[-1] for each in (person, alone))
        torch.testing.assert_close(
            person.hypotheses.camera.project(joined), alone.hypotheses.camera.project(own)
        )
        assert float(joined[2]) == pytest.approx(np.hypot(*SIZE) / 180)  # as many pixels per metre


def reversed_people(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value[::-1] for key, value in content.items()}


def test_files_of_different_people_are_not_joined(body: Body, tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    first = saved(tmp_path, cliff(1))
    with pytest.raises(ValueError, match=r"holds 1 person\(s\) and .*other.npz 2"):
        given_people(tmp_path / "a.png", [first, saved(tmp_path, hmr2(2), "other.npz")], body)
    far = hmr2() | {"box_center": np.array([[200, 300]], np.float32)}
    with pytest.raises(ValueError, match=r"person 0 of .*out.npz is not in .*far.npz"):
        given_people(tmp_path / "a.png", [first, saved(tmp_path, far, "far.npz")], body)
    with pytest.raises(ValueError, match=r"G = 1 hypotheses per person; .* in one file or in several"):
        given_people(tmp_path / "a.png", [first], body)
