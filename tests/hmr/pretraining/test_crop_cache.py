"""Caches of training crops: what tells them apart, and whose poses and walls they show."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmr.body.model import Body
from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.synthetic.amass import load_amass
from hmr.synthetic.recipe import LAB
from hmr.types import BodyParams
from tests.agent.tools.tool_case import write_larger_body

BUILT_IN = CropCache(LAB, 9, 4, 64, 1.2)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """One frame, whose left knee is bent by 90 degrees."""
    (tmp_path / "clips").mkdir()
    poses = np.zeros((1, 156))
    poses[:, 0] = np.pi / 2  # stood up in a z-up world
    poses[:, 12] = np.pi / 2  # joint 4, about x
    np.savez(tmp_path / "clips" / "bow.npz", poses=poses, trans=np.zeros((1, 3)), betas=np.zeros(16))
    return tmp_path / "clips"


@pytest.fixture
def walls(tmp_path: Path) -> Path:
    (tmp_path / "walls").mkdir()
    Image.new("RGB", (300, 260), (10, 200, 30)).save(tmp_path / "walls" / "green.png")
    return tmp_path / "walls"


def test_a_cache_of_built_in_scenes_keeps_its_name():
    """Caches of hours of drawing are found again."""
    assert BUILT_IN.digest() == "0c18c80b2ed1"


def test_folders_count_by_what_is_in_them(clips: Path, walls: Path):
    caches = [
        dataclasses.replace(BUILT_IN, **folders)
        for folders in ({}, {"motion": clips}, {"backdrops": walls}, {"motion": clips, "backdrops": walls})
    ]
    before = [cache.digest() for cache in caches]
    assert len(set(before)) == 4
    Image.new("RGB", (260, 300)).save(walls / "black.png")
    after = [cache.digest() for cache in caches]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, True, False, False]


def test_crops_of_another_body_are_another_cache(tmp_path: Path):
    file = write_larger_body(tmp_path)
    larger = dataclasses.replace(BUILT_IN, count=1, body=file)
    embedded = dataclasses.replace(larger, body=None)
    assert larger.digest() != embedded.digest()
    legs_m = [
        float(CropDataset(make_crops(cache, tmp_path)).targets["pose_m"][0, [1, 4]].diff(dim=0).norm())
        for cache in (larger, embedded)
    ]
    assert legs_m[0] == pytest.approx(1.3 * legs_m[1], rel=1e-3)


def test_crops_are_posed_from_a_folder_of_motion(clips: Path, body: Body, tmp_path: Path):
    crops = CropDataset(make_crops(dataclasses.replace(BUILT_IN, motion=clips), tmp_path))
    (recorded,) = load_amass(clips).body_pose
    rest = torch.zeros(1, 3)
    posed = body.joints(BodyParams(rest, recorded[None], torch.zeros(1, 10), rest))[0]
    hip, knee, ankle = posed[[1, 4, 7]]
    thigh, shin = (one / one.norm() for one in (knee - hip, ankle - knee))
    for joints in crops.targets["pose_m"]:
        seen_thigh, seen_shin = joints[4] - joints[1], joints[7] - joints[4]
        angle = torch.cosine_similarity(seen_thigh, seen_shin, dim=0)
        assert angle == pytest.approx(float(thigh @ shin), abs=0.05)  # betas move it a little


def test_crops_stand_before_a_folder_of_photographs(walls: Path, tmp_path: Path):
    recipe = dataclasses.replace(LAB, clutter=(0, 0), occluded=0.0, person_fraction=(0.5, 0.5))
    plain = dataclasses.replace(BUILT_IN, recipe=recipe)
    green, painted = (
        CropDataset(make_crops(cache, tmp_path)).crops[:, 0, 0].astype(float)
        for cache in (dataclasses.replace(plain, backdrops=walls), plain)
    )
    assert (green[:, 1] > 2 * green[:, [0, 2]].max(axis=1)).all()
    assert not (painted[:, 1] > 2 * painted[:, [0, 2]].max(axis=1)).all()


@pytest.mark.parametrize("name", ["motion", "backdrops"])
def test_a_folder_that_is_not_there_is_named(name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        make_crops(dataclasses.replace(BUILT_IN, **{name: tmp_path / "nowhere"}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
