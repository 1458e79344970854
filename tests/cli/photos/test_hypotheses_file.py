"""The npz schema: accepted files, rejected files and their messages. Runs docs/guides/hypotheses-npz.md too."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.photos.hypotheses_file import read_hypotheses, write_hypotheses
from hmr.types import BodyParams, Box, Camera, Hypotheses

SIZE = (640, 480)
DOCS = Path(__file__).parents[3] / "docs" / "guides" / "hypotheses-npz.md"


def arrays(people: int = 2, group: int = 4, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"global_orient": (3,), "body_pose": (69,), "betas": (10,), "transl": (3,)}
    made = {key: rng.normal(size=(people, group, *shape)) for key, shape in shapes.items()}
    camera = {
        "focal_px": np.array(800.0),
        "center_px": np.array([320.0, 240.0]),
        "image_size": np.array(SIZE),
    }
    return made | camera


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hypotheses.npz"


def rejection(path: Path, content: dict[str, Any]) -> str:
    np.savez(path, **content)
    with pytest.raises(ValueError) as caught:
        read_hypotheses(path, SIZE)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_written_groups_can_be_read(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    camera = Camera(800.0, 320.0, 240.0, *SIZE)
    people = [
        (
            Box(10.0 * person, 20.0, 200.0, 400.0),
            Hypotheses(
                BodyParams(*(torch.randn(3, *s, generator=generator) for s in ((3,), (23, 3), (10,), (3,)))),
                camera,
            ),
        )
        for person in range(2)
    ]
    write_hypotheses(path, people)
    again = read_hypotheses(path, SIZE)
    assert [box for box, _ in again] == [box for box, _ in people]
    for (_, read), (_, written) in zip(again, people, strict=True):
        assert read.camera == camera
        for key, value in vars(written.params).items():
            torch.testing.assert_close(getattr(read.params, key), value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("pose_shape", [(69,), (23, 3), (63,), (21, 3)])
@pytest.mark.parametrize("person_axis", [True, False])
def test_every_allowed_layout(path: Path, pose_shape: tuple[int, ...], person_axis: bool) -> None:
    content = arrays(people=1)
    size = int(np.prod(pose_shape))
    content["body_pose"] = content["body_pose"][..., :size].reshape(1, 4, *pose_shape)
    expected = content["body_pose"].reshape(4, -1, 3)
    if not person_axis:
        content |= {key: content[key][0] for key in ("global_orient", "body_pose", "betas", "transl")}
    np.savez(path, **content)
    [(box, hypotheses)] = read_hypotheses(path, SIZE)
    assert box is None
    assert len(hypotheses) == 4
    pose = hypotheses.params.body_pose.numpy()
    np.testing.assert_allclose(pose[:, : size // 3], expected, rtol=1e-6)
    assert not pose[:, size // 3 :].any()  # the hand joints


def test_other_keys_are_ignored(path: Path) -> None:
    np.savez(path, **arrays(), left_hand_pose=np.zeros(45), joints=np.array(["text"]))
    assert len(read_hypotheses(path, SIZE)) == 2


@pytest.mark.parametrize("key", ["global_orient", "betas", "focal_px", "image_size"])
def test_a_missing_key_is_named_beside_the_keys_of_the_file(path: Path, key: str) -> None:
    content = arrays()
    content["cam"] = content.pop(key)
    message = rejection(path, content)
    assert f"lacks {key};" in message
    assert "cam" in message


@pytest.mark.parametrize(
    ("key", "shape"),
    [("global_orient", (2, 4, 3, 3)), ("body_pose", (2, 4, 72)), ("betas", (2, 4, 16)), ("transl", (3,))],
)
def test_a_wrong_shape_is_named_beside_the_allowed_shapes(
    path: Path, key: str, shape: tuple[int, ...]
) -> None:
    message = rejection(path, arrays() | {key: np.zeros(shape)})
    assert message.startswith(key)
    assert str(shape) in message
    assert "allowed are (N, G, " in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_must_be_finite(path: Path, value: float) -> None:
    content = arrays()
    content["transl"][1, 2, 0] = value
    assert "transl" in (message := rejection(path, content))
    assert "1 NaN or infinite values" in message


def test_a_group_of_one_is_rejected(path: Path) -> None:
    assert "G = 1" in rejection(path, arrays(group=1))


def test_parameters_of_different_group_sizes_are_rejected(path: Path) -> None:
    assert "disagree" in rejection(path, arrays() | {"betas": np.zeros((2, 5, 10))})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("focal_px", np.array(0.0), "must be positive, not 0"),
        ("focal_px", np.array([1.0, 2.0]), "must hold 1 number"),
        ("image_size", np.array([480, 640]), "480 x 640, but the image is 640 x 480"),
        ("image_size", np.array([640.5, 480]), "must hold whole numbers"),
        ("focal_px", np.array(1e-30), "has a focal length from 64 to 64000 px, not 1e-30"),
        ("center_px", np.array([1e30, 0]), "the principal point 1e[+]30, 0 is far outside"),
        ("transl", np.full((2, 4, 3), 1e30), "transl of .* has the number 1e[+]30; the largest is 10000"),
        ("body_pose", np.full((2, 4, 69), 1e20), "the largest is 1000"),
        ("betas", np.full((2, 4, 10), 1e30), "the largest is 100"),
        ("boxes_xyxy", np.zeros((3, 4)), r"has shape \(3, 4\)"),
        ("boxes_xyxy", np.array([[0, 0, 5, 5], [9, 0, 5, 5]]), "x1 > x0"),
        ("betas", np.array(["a"]), "must hold numbers"),
    ],
)
def test_other_violations_of_the_schema(path: Path, key: str, value: np.ndarray, words: str) -> None:
    assert re.search(words, rejection(path, arrays() | {key: value}))


def test_pickled_arrays_are_not_loaded(path: Path) -> None:
    assert "it has the type object" in rejection(path, arrays() | {"betas": np.array([{}], dtype=object)})


def test_files_that_are_not_npz(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no hypotheses file"):
        read_hypotheses(path, SIZE)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not an npz archive"):
        read_hypotheses(path, SIZE)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"lacks global_orient, .*; it has notes.txt"):
        read_hypotheses(path, SIZE)


def test_a_damaged_file(path: Path) -> None:
    np.savez(path, **arrays())
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is not made of plain arrays: Bad CRC"):
        read_hypotheses(path, SIZE)


def test_groups_that_cannot_share_a_file(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    params = BodyParams(*(torch.randn(2, *s, generator=generator) for s in ((3,), (23, 3), (10,), (3,))))
    near, far = (Hypotheses(params, Camera(focal, 320.0, 240.0, *SIZE)) for focal in (800.0, 900.0))
    with pytest.raises(ValueError, match="same size and camera"):
        write_hypotheses(path, [(None, near), (None, far)])
    with pytest.raises(ValueError, match="1 of 2 groups have a box"):
        write_hypotheses(path, [(None, near), (Box(0.0, 0.0, 9.0, 9.0), near)])
    assert not path.exists()


def test_the_example_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, DOCS.name, "exec"), {})
