"""The picture of everybody: each person in a colour of their own, the nearer one before the farther one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor

from cli.photos.people import Person
from cli.photos.person_files import save_people, save_person
from hmr.body.model import Body
from hmr.images.photographs import photo_of, sample_of
from hmr.render import load_renderer
from hmr.render.overlay import PERSON_COLORS
from hmr.types import BodyParams, Box, Camera, Detection, Hypotheses

SIDE_PX = 96
CAMERA = Camera(100.0, SIDE_PX / 2, SIDE_PX / 2, SIDE_PX, SIDE_PX)


def standing(body: Body, x_m: float, depth_m: float) -> Person:
    """Facing the camera, the pelvis at this place."""
    orient = torch.tensor([torch.pi, 0.0, 0.0])
    rest = BodyParams(orient, torch.zeros(23, 3), torch.zeros(10), torch.zeros(3))
    transl = torch.tensor([x_m, 0.0, depth_m]) - body.joints(rest)[0]
    group = BodyParams.stack([BodyParams(orient, torch.zeros(23, 3), torch.zeros(10), transl)])
    photo = photo_of(np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8))
    sample = sample_of(photo.image, Box(0.0, 0.0, 90.0, 90.0), CAMERA)
    return Person(sample, Hypotheses(group, CAMERA), photo)


def picture(body: Body, path: Path, *people: Person) -> np.ndarray:
    save_people(path, people, body, load_renderer())
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def color_at(pixels: np.ndarray, x_m: float, depth_m: float) -> int:
    """Which of the colours a trunk at this place has."""
    x = round(CAMERA.focal_px * x_m / depth_m + CAMERA.cx_px)
    hue = pixels[SIDE_PX // 2, x] / pixels[SIDE_PX // 2, x].sum()
    colors = np.array(PERSON_COLORS) / np.array(PERSON_COLORS).sum(axis=1, keepdims=True)
    return int(np.linalg.norm(colors - hue, axis=1).argmin())


def test_people_have_colours_of_their_own(body: Body, tmp_path: Path):
    pixels = picture(body, tmp_path / "a.png", standing(body, -0.8, 4.0), standing(body, 0.8, 4.0))
    assert [color_at(pixels, x_m, 4.0) for x_m in (-0.8, 0.8)] == [0, 1]


def test_a_nearer_person_hides_a_farther_one_in_any_order(body: Body, tmp_path: Path):
    near, far = standing(body, 0.0, 3.0), standing(body, 0.0, 4.0)
    assert color_at(picture(body, tmp_path / "a.png", near, far), 0.0, 3.0) == 0
    assert color_at(picture(body, tmp_path / "b.png", far, near), 0.0, 3.0) == 1


def test_limbs_beyond_the_frame_are_drawn_faintly(body: Body, tmp_path: Path):
    """Half of the trunk is left of the photograph, which is white; beyond it panels are grey."""
    person = standing(body, -1.9, 4.0)
    sample = sample_of(person.photo.image, Box(0.0, 20.0, 40.0, 76.0), CAMERA)
    paths = save_person(tmp_path / "a", replace(person, sample=sample), body, load_renderer(), formats=())
    row = np.asarray(Image.open(paths[1]).convert("L")).astype(int)[112]
    beyond, inside = row[50], row[62]
    assert 5 < abs(beyond - row[10]) < 25
    assert row[110] - inside > 70


def test_the_detector_s_points_are_drawn_on_request(body: Body, tmp_path: Path):
    """An upper arm that is seen and a forearm that is not, away from the body."""
    points_px = torch.tensor([[70.0, 20.0], [90.0, 20.0], [90.0, 60.0]])
    detection = Detection.from_points(
        ["left_shoulder", "left_elbow", "left_wrist"], points_px, torch.ones(3), torch.tensor([1.0, 0.9, 0.2])
    )
    person = replace(standing(body, 0.0, 4.0), detection=detection)
    plain, drawn = (
        np.asarray(
            Image.open(
                save_person(
                    tmp_path / name, person, body, load_renderer(), None, (), with_skeleton=name == "b"
                )[0]
            ).convert("RGB")
        )
        for name in ("a", "b")
    )
    assert (plain[20, 80].tolist(), plain[40, 90].tolist()) == ([255] * 3, [255] * 3)
    assert drawn[20, 80].tolist() == list(ImageColor.getrgb("lime"))
    assert drawn[40, 90].tolist() == list(ImageColor.getrgb("orange"))
