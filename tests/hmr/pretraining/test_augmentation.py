"""Augmented crops and their targets stay consistent: image, keypoints and mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hmr.pretraining import augmentation as augmenting
from hmr.pretraining.augmentation import (
    as_floats,
    augment,
    blur,
    crowd,
    jitter_colour,
    occlude,
    paste_person,
    paste_texture,
    rotate,
    zoom,
)

COUNT, SIDE = 16, 64


def _rows(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return as_floats(
        {
            "crops": torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8),
            "mask": torch.full((COUNT, SIDE // 4, SIDE // 4), 255, dtype=torch.uint8),
            "depth_m": 0.3 * torch.randn(COUNT, 24, generator=generator),
            "keypoints": torch.rand(COUNT, 24, 2, generator=generator) * 1.6 - 0.8,
            "visible": torch.ones(COUNT, 24, dtype=torch.bool),
        }
    )


def _standing(ground: float = 0.0) -> dict[str, Tensor]:
    """Rows whose people fill the middle third of the crop, with all joints in it."""
    rows = _rows()
    rows["mask"] = torch.full_like(rows["mask"], ground)
    rows["mask"][:, :, 5:11] = 1.0
    rows["keypoints"][..., 0] *= 0.3
    return rows


def _inside(rows: dict[str, Tensor]) -> Tensor:
    """Pixels inside the person, at least one mask pixel from the background."""
    own = torch.zeros(SIDE, dtype=torch.bool)
    own[6 * 4 : 10 * 4] = True
    return own.expand_as(rows["crops"])


def _truth_stays(before: dict[str, Tensor], after: dict[str, Tensor], *changed: str) -> None:
    assert all(torch.equal(after[name], before[name]) for name in before if name not in ("crops", *changed))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _same(left: Tensor, right: Tensor) -> Tensor:
    return (left == right).flatten(1).all(dim=1)


def test_rotation_moves_pixels_and_keypoints_alike() -> None:
    rows = _rows()
    ramp = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    rows["crops"] = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)] * 2)[:3].expand(
        COUNT, 3, SIDE, SIDE
    )
    rows["keypoints"] = (
        rows["keypoints"] * 0.5
    )  # near the centre, so that no rotation moves it out of the crop
    rotated = rotate(rows, _generator())
    found = torch.nn.functional.grid_sample(
        rotated["crops"], rotated["keypoints"][:, :, None], align_corners=False
    )
    torch.testing.assert_close(found[:, :2, :, 0].mT, rows["keypoints"], atol=1e-4, rtol=0)
    some = (~_same(rotated["keypoints"], rows["keypoints"])).sum()
    assert some in range(COUNT // 4, COUNT)  # not all
    assert torch.equal(rotated["depth_m"], rows["depth_m"])  # the camera turns about its axis


def test_zoom_moves_pixels_and_keypoints_alike() -> None:
    rows = _rows()
    ramp = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1  # an image whose red is x and whose green is y
    rows["crops"] = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)] * 2)[:3].expand(
        COUNT, 3, SIDE, SIDE
    )
    rows["keypoints"] = torch.zeros(COUNT, 24, 2)  # the middle of the old crop, where red and green are 0
    nearer = zoom(rows, _generator())
    at = nearer["keypoints"][:, :1, None]
    found = torch.nn.functional.grid_sample(nearer["crops"], at, align_corners=False)[:, :2]
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-4, rtol=0)
    some = (~_same(nearer["keypoints"], rows["keypoints"])).sum()
    assert some in range(COUNT // 4, COUNT)  # not all


def test_a_crowd_replaces_only_the_background() -> None:
    rows = _standing()
    crowded = crowd(rows, _generator())
    changed = ~_same(crowded["crops"], rows["crops"])
    assert 1 <= int(changed.sum()) < COUNT
    own = _inside(rows)
    torch.testing.assert_close(crowded["crops"][own], rows["crops"][own])
    far = torch.arange(SIDE).sub(SIDE // 2).abs() > SIDE // 3  # the old background is replaced everywhere
    shares = (crowded["crops"] == rows["crops"])[changed][..., far].float().mean(dim=(1, 2, 3))
    assert (shares < 0.1).all()
    _truth_stays(rows, crowded)


def test_a_crowd_is_made_of_the_other_crops() -> None:
    rows = _standing()
    rows["crops"] = torch.full_like(rows["crops"], 0.5)
    rows["crops"][:, 0] = 0.0  # no crop of this batch has red
    crowded = crowd(rows, _generator())["crops"]
    assert crowded[:, 0].max() == 0
    assert crowded[:, 1:].std() > 0.01  # different crops


def test_unknown_ground_is_not_replaced() -> None:
    rows = _standing(ground=128 / 255)
    assert torch.equal(crowd(rows, _generator())["crops"], rows["crops"])


def test_only_a_person_in_front_hides_joints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = _standing()
    monkeypatch.setattr(augmenting, "WITH_PERSON", 0.7)
    pasted = paste_person(rows, _generator())
    changed, hidden = ~_same(pasted["crops"], rows["crops"]), ~_same(pasted["mask"], rows["mask"])
    assert 1 <= int(hidden.sum()) < int(changed.sum()) < COUNT
    own, behind = _inside(rows), changed & ~hidden
    torch.testing.assert_close(
        pasted["crops"][behind][own[behind]], rows["crops"][behind][own[behind]], atol=0, rtol=0
    )
    assert pasted["visible"][~hidden].all()
    assert not pasted["visible"][hidden].all()
    assert (pasted["mask"] <= rows["mask"]).all()
    assert (pasted["mask"].sum(dim=(1, 2)) >= augmenting.MIN_VISIBLE * rows["mask"].sum(dim=(1, 2))).all()
    _truth_stays(rows, pasted, "mask", "visible")


def test_a_texture_is_only_on_the_person() -> None:
    rows = _standing()
    textured = paste_texture(rows, _generator())
    touched = textured["crops"] != rows["crops"]
    assert 1 <= int(touched.flatten(1).any(dim=1).sum()) < COUNT
    beyond = torch.arange(SIDE).sub(SIDE // 2).abs() > SIDE // 4  # a mask's pixel more than the person
    assert not touched[..., beyond].any()
    _truth_stays(rows, textured)


def test_an_occluder_hides_joints_and_mask() -> None:
    rows = _rows()
    hidden = occlude(rows, _generator())
    touched = ~_same(hidden["mask"], rows["mask"])
    assert 1 <= int(touched.sum()) < COUNT
    assert (
        hidden["visible"].logical_not().any(dim=1) <= touched
    ).all()  # joints outside the occluder stay visible
    assert hidden["visible"].logical_not().any()
    assert _same(hidden["crops"], rows["crops"])[~touched].all()
    assert torch.equal(hidden["keypoints"], rows["keypoints"])  # hidden joints keep their position
    left = hidden["mask"].sum(dim=(1, 2)) / rows["mask"].sum(dim=(1, 2))
    assert (left >= augmenting.MIN_VISIBLE).all()


def test_a_barely_visible_person_is_not_occluded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows()
    rows["mask"] = torch.zeros_like(rows["mask"])
    rows["mask"][:, 8, 8] = 1.0  # one pixel, at the joints
    rows["keypoints"] = torch.full((COUNT, 24, 2), 1 / 16)
    monkeypatch.setattr(augmenting, "SHAPE_SIZE", (0.9, 0.95))
    hidden = occlude(rows, _generator())
    assert torch.equal(hidden["mask"], rows["mask"])
    assert torch.equal(hidden["crops"], rows["crops"])
    assert hidden["visible"].all()


def test_blur_keeps_the_brightness_and_removes_detail() -> None:
    rows = _rows()
    blurred = blur(rows, _generator())["crops"]
    changed = ~_same(blurred, rows["crops"])
    assert 1 <= int(changed.sum()) < COUNT
    assert (
        blurred[changed].flatten(1).std(dim=1) < 0.95 * rows["crops"][changed].flatten(1).std(dim=1)
    ).all()
    means = [images.flatten(2).mean(dim=2) for images in (blurred, rows["crops"])]
    torch.testing.assert_close(*means, atol=0.02, rtol=0)


def test_blur_does_not_change_a_uniform_image() -> None:
    rows = _rows()
    rows["crops"] = torch.full_like(rows["crops"], 0.3)
    torch.testing.assert_close(blur(rows, _generator())["crops"], rows["crops"])


def test_colours_stay_in_range_and_targets_do_not_change() -> None:
    rows = _rows()
    jittered = jitter_colour(rows, _generator())
    assert jittered["crops"].min() >= 0
    assert jittered["crops"].max() <= 1
    assert not _same(jittered["crops"], rows["crops"]).any()
    assert all(torch.equal(jittered[name], rows[name]) for name in rows if name != "crops")


def test_the_same_seed_gives_the_same_crops() -> None:
    first, again = augment(_rows(), _generator()), augment(_rows(), _generator())
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = augment(_rows(), torch.Generator().manual_seed(2))
    assert not torch.equal(first["crops"], other["crops"])


def test_the_input_is_not_modified() -> None:
    rows = _rows()
    before = {name: column.clone() for name, column in rows.items()}
    augment(rows, _generator())
    assert all(torch.equal(rows[name], before[name]) for name in rows)
