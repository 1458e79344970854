"""Augmented crops are other photographs of the same truth: laws that tie picture, keypoints, mask and body."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.pretraining import augmentation as augmenting
from hmr.pretraining.augmentation import (
    as_floats,
    augment,
    blur,
    crowd,
    hide,
    join,
    pattern,
    recolour,
    turn,
    zoom,
)
from hmr.pretraining.losses import joints_of, reproject

COUNT, SIDE = 16, 64


def _rows(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vector = 0.3 * torch.randn(COUNT, VECTOR_SIZE, generator=generator)
    vector[:, :-13] += torch.eye(3)[:, :2].flatten().repeat(24)
    geometry = torch.tensor([250.0, 112, 112, 224, 224, 100, 120, 150]).repeat(COUNT, 1)
    return as_floats(
        {
            "crops": torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8),
            "mask": torch.full((COUNT, SIDE // 4, SIDE // 4), 255, dtype=torch.uint8),
            "vector": vector,
            "geometry": geometry,
            "keypoints": torch.rand(COUNT, 24, 2, generator=generator) * 1.6 - 0.8,
            "visible": torch.ones(COUNT, 24, dtype=torch.bool),
        }
    )


def _standing(ground: float = 0.0) -> dict[str, Tensor]:
    """Rows whose people fill the middle third of the crop, with all of their joints in it."""
    rows = _rows()
    rows["mask"] = torch.full_like(rows["mask"], ground)
    rows["mask"][:, :, 5:11] = 1.0
    rows["keypoints"][..., 0] *= 0.3
    return rows


def _inside(rows: dict[str, Tensor]) -> Tensor:
    """Pixels that are the person's for certain: a mask's pixel away from everything else."""
    own = torch.zeros(SIDE, dtype=torch.bool)
    own[6 * 4 : 10 * 4] = True
    return own.expand_as(rows["crops"])


def _truth_stays(before: dict[str, Tensor], after: dict[str, Tensor], *changed: str) -> None:
    assert all(torch.equal(after[name], before[name]) for name in before if name not in ("crops", *changed))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _same(left: Tensor, right: Tensor) -> Tensor:
    return (left == right).flatten(1).all(dim=1)


def test_a_nearer_view_moves_the_body_with_its_picture(body: Body) -> None:
    rows = _rows()
    nearer = zoom(rows, _generator())

    def seen(r: dict[str, Tensor]) -> Tensor:
        return reproject(r["vector"], joints_of(r["vector"], body), r["geometry"])

    size = (nearer["geometry"][:, 7] / rows["geometry"][:, 7])[:, None, None]
    off_before, off_after = seen(rows) - rows["keypoints"], seen(nearer) - nearer["keypoints"]
    torch.testing.assert_close(off_after, off_before / size, atol=2e-5, rtol=1e-4)
    assert (size < 1).sum() in range(COUNT // 4, COUNT)  # some rows, not all
    assert (size >= augmenting.CLOSEST).all()


def test_a_rolled_camera_turns_the_body_with_its_picture(body: Body) -> None:
    rows = _rows()
    turned = turn(rows, _generator())

    def seen(r: dict[str, Tensor]) -> Tensor:
        return reproject(r["vector"], joints_of(r["vector"], body), r["geometry"])

    off_before, off_after = seen(rows) - rows["keypoints"], seen(turned) - turned["keypoints"]
    torch.testing.assert_close(off_after.norm(dim=-1), off_before.norm(dim=-1), atol=2e-4, rtol=1e-3)
    depths = [joints_of(r["vector"], body)[..., 2] for r in (rows, turned)]
    torch.testing.assert_close(*depths, atol=1e-5, rtol=0)
    assert (~_same(turned["vector"], rows["vector"])).sum() in range(COUNT // 4, COUNT)  # some rows, not all


def test_a_rolled_camera_shows_the_pixels_that_it_says() -> None:
    rows = _rows()
    ramp = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    rows["crops"] = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)] * 2)[:3].expand(
        COUNT, 3, SIDE, SIDE
    )
    rows["keypoints"] = rows["keypoints"] * 0.5  # near the middle, which no turn takes out of the crop
    turned = turn(rows, _generator())
    found = torch.nn.functional.grid_sample(
        turned["crops"], turned["keypoints"][:, :, None], align_corners=False
    )
    torch.testing.assert_close(found[:, :2, :, 0].mT, rows["keypoints"], atol=1e-4, rtol=0)


def test_a_nearer_view_shows_the_pixels_that_it_says() -> None:
    rows = _rows()
    ramp = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1  # a picture whose red is its own x, and green its y
    rows["crops"] = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)] * 2)[:3].expand(
        COUNT, 3, SIDE, SIDE
    )
    rows["keypoints"] = torch.zeros(COUNT, 24, 2)  # the middle of the old crop, where red and green are 0
    nearer = zoom(rows, _generator())
    at = nearer["keypoints"][:, :1, None]
    found = torch.nn.functional.grid_sample(nearer["crops"], at, align_corners=False)[:, :2]
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-4, rtol=0)


def test_a_crowd_stands_behind_the_person() -> None:
    rows = _standing()
    crowded = crowd(rows, _generator())
    changed = ~_same(crowded["crops"], rows["crops"])
    assert 1 <= int(changed.sum()) < COUNT
    own = _inside(rows)
    torch.testing.assert_close(crowded["crops"][own], rows["crops"][own])
    far = torch.arange(SIDE).sub(SIDE // 2).abs() > SIDE // 3  # none of the old backdrop is left
    shares = (crowded["crops"] == rows["crops"])[changed][..., far].float().mean(dim=(1, 2, 3))
    assert (shares < 0.1).all()
    _truth_stays(rows, crowded)


def test_a_crowd_is_made_of_the_other_crops() -> None:
    rows = _standing()
    rows["crops"] = torch.full_like(rows["crops"], 0.5)
    rows["crops"][:, 0] = 0.0  # nobody in this batch shows any red
    crowded = crowd(rows, _generator())["crops"]
    assert crowded[:, 0].max() == 0
    assert crowded[:, 1:].std() > 0.01  # in lights of their own


def test_ground_that_nobody_knows_is_no_backdrop() -> None:
    rows = _standing(ground=128 / 255)
    assert torch.equal(crowd(rows, _generator())["crops"], rows["crops"])


def test_someone_behind_hides_nothing_and_someone_before_hides_what_he_covers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = _standing()
    monkeypatch.setattr(augmenting, "JOINED", 0.7)
    joined = join(rows, _generator())
    changed, hidden = ~_same(joined["crops"], rows["crops"]), ~_same(joined["mask"], rows["mask"])
    assert 1 <= int(hidden.sum()) < int(changed.sum()) < COUNT
    own, behind = _inside(rows), changed & ~hidden
    torch.testing.assert_close(
        joined["crops"][behind][own[behind]], rows["crops"][behind][own[behind]], atol=0, rtol=0
    )
    assert joined["visible"][~hidden].all()
    assert not joined["visible"][hidden].all()
    assert (joined["mask"] <= rows["mask"]).all()
    assert (joined["mask"].sum(dim=(1, 2)) >= augmenting.MIN_VISIBLE * rows["mask"].sum(dim=(1, 2))).all()
    _truth_stays(rows, joined, "mask", "visible")


def test_a_pattern_is_on_the_person_and_nowhere_else() -> None:
    rows = _standing()
    patterned = pattern(rows, _generator())
    touched = patterned["crops"] != rows["crops"]
    assert 1 <= int(touched.flatten(1).any(dim=1).sum()) < COUNT
    beyond = torch.arange(SIDE).sub(SIDE // 2).abs() > SIDE // 4  # a mask's pixel more than the person
    assert not touched[..., beyond].any()
    _truth_stays(rows, patterned)


def test_what_a_thing_hides_is_not_seen() -> None:
    rows = _rows()
    hidden = hide(rows, _generator())
    touched = ~_same(hidden["mask"], rows["mask"])
    assert 1 <= int(touched.sum()) < COUNT
    assert (
        hidden["visible"].logical_not().any(dim=1) <= touched
    ).all()  # no keypoint is lost without a thing
    assert hidden["visible"].logical_not().any()
    assert _same(hidden["crops"], rows["crops"])[~touched].all()
    assert torch.equal(hidden["keypoints"], rows["keypoints"])  # hidden is not gone
    left = hidden["mask"].sum(dim=(1, 2)) / rows["mask"].sum(dim=(1, 2))
    assert (left >= augmenting.MIN_VISIBLE).all()


def test_nothing_stands_before_a_person_who_is_hardly_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows()
    rows["mask"] = torch.zeros_like(rows["mask"])
    rows["mask"][:, 8, 8] = 1.0  # one pixel, at the joints
    rows["keypoints"] = torch.full((COUNT, 24, 2), 1 / 16)
    monkeypatch.setattr(augmenting, "THING_SIZE", (0.9, 0.95))
    hidden = hide(rows, _generator())
    assert torch.equal(hidden["mask"], rows["mask"])
    assert torch.equal(hidden["crops"], rows["crops"])
    assert hidden["visible"].all()


def test_blur_keeps_the_light_and_takes_the_detail() -> None:
    rows = _rows()
    blurred = blur(rows, _generator())["crops"]
    changed = ~_same(blurred, rows["crops"])
    assert 1 <= int(changed.sum()) < COUNT
    assert (
        blurred[changed].flatten(1).std(dim=1) < 0.95 * rows["crops"][changed].flatten(1).std(dim=1)
    ).all()
    means = [images.flatten(2).mean(dim=2) for images in (blurred, rows["crops"])]
    torch.testing.assert_close(*means, atol=0.02, rtol=0)


def test_a_plain_picture_stays_plain_under_blur() -> None:
    rows = _rows()
    rows["crops"] = torch.full_like(rows["crops"], 0.3)
    torch.testing.assert_close(blur(rows, _generator())["crops"], rows["crops"])


def test_colours_stay_colours_and_truth_stays() -> None:
    rows = _rows()
    recoloured = recolour(rows, _generator())
    assert recoloured["crops"].min() >= 0
    assert recoloured["crops"].max() <= 1
    assert not _same(recoloured["crops"], rows["crops"]).any()
    assert all(torch.equal(recoloured[name], rows[name]) for name in rows if name != "crops")


def test_the_same_seed_gives_the_same_photographs() -> None:
    first, again = augment(_rows(), _generator()), augment(_rows(), _generator())
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = augment(_rows(), torch.Generator().manual_seed(2))
    assert not torch.equal(first["crops"], other["crops"])


def test_rows_go_in_unharmed() -> None:
    rows = _rows()
    before = {name: column.clone() for name, column in rows.items()}
    augment(rows, _generator())
    assert all(torch.equal(rows[name], before[name]) for name in rows)
