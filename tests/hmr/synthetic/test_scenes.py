"""Synthetic scenes: exact truth, opaque samples, the same scene from the same recipe."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hmr.body.model import Body
from hmr.synthetic.detector_noise import PROFILES
from hmr.synthetic.recipe import LAB, RECIPES, STREET, STUDIO, STUDIO_TEST, WILD, SceneRecipe
from hmr.synthetic.scenes import SceneMaker
from hmr.synthetic.store import make_scenes, read_labelled, read_samples, read_truth, set_digest
from hmr.types import NUM_JOINTS, POINT_NAMES, Camera, Labelled, Sample


@pytest.fixture(scope="module")
def chunks(body: Body) -> dict[str, list[Labelled]]:
    return {
        name: [scene.labelled for scene in SceneMaker(body, recipe, seed=5).chunk(0)]
        for name, recipe in RECIPES.items()
    }


@pytest.fixture(params=sorted(RECIPES))
def scenes(request: pytest.FixtureRequest, chunks: dict[str, list[Labelled]]) -> list[Labelled]:
    return chunks[request.param]


def test_the_truth_projects_onto_the_person(scenes: list[Labelled]):
    """Where the truth says a joint is seen, the person's pixels are near."""
    for item in scenes:
        rows, columns = np.nonzero(item.truth.mask)
        person = torch.from_numpy(np.stack([columns, rows], axis=-1)).float() + 0.5
        seen = item.truth.keypoints_px[item.truth.visible]
        distance = torch.cdist(seen, person).min(dim=1).values
        # of 224: toes and finger joints stick out of a coarse mask, or hide behind limbs
        assert distance.max() < 20
        assert distance.median() < 2


def test_joints_and_keypoints_agree_with_the_body(scenes: list[Labelled], body: Body):
    for item in scenes[:4]:
        truth = item.truth
        torch.testing.assert_close(body.joints(truth.params), truth.joints_cam_m, atol=1e-4, rtol=0)
        torch.testing.assert_close(truth.camera.project(truth.joints_cam_m), truth.keypoints_px)


def test_an_occluder_hides_joints_but_leaves_a_person(chunks: dict[str, list[Labelled]]):
    for name, items in chunks.items():
        hidden = torch.stack([~item.truth.visible for item in items])
        assert hidden.any() == (RECIPES[name].occluded > 0)
        assert all(item.truth.mask.sum() > 100 for item in items)


def test_a_sample_has_only_what_a_photograph_gives(scenes: list[Labelled]):
    for item in scenes:
        sample, truth = item.sample, item.truth
        names = {field.name for field in dataclasses.fields(sample)}
        assert names == {"id", "image", "box", "camera", "detection"}
        size = sample.image.shape[0]
        assert sample.camera == Camera.estimate(size, size)
        assert sample.camera.focal_px != truth.camera.focal_px
        points = truth.keypoints_px.clamp(0, size)
        tight = (*points.min(dim=0).values.tolist(), *points.max(dim=0).values.tolist())
        assert dataclasses.astuple(sample.box) != pytest.approx(tight, abs=0.01)
    ids = [item.sample.id for item in scenes]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 16 and not set(i) - set("0123456789abcdef") for i in ids)


def test_wild_hides_more_than_lab(chunks: dict[str, list[Labelled]]):
    hidden = {
        name: torch.stack([~item.truth.visible for item in items]).float().mean()
        for name, items in chunks.items()
    }
    assert hidden["wild"] > hidden["lab"]


def test_a_simulated_detector_reports_the_points_with_errors(chunks: dict[str, list[Labelled]]):
    """Near the true points, but nowhere on them, with the deviations that it states, and no depth."""
    assert all(item.sample.detection is None for name in ("lab", "wild") for item in chunks[name])
    reported = PROFILES["wholebody"].points
    for name in ("studio", "street"):
        ratios = []
        for item in chunks[name]:
            found, truth = item.sample.detection, item.truth
            assert found is not None
            assert {POINT_NAMES[row] for row in found.observed.nonzero()[:, 0]} <= set(reported)
            assert found.depth_sigma_m.isinf().all()
            known = found.observed[:NUM_JOINTS]
            error = (found.keypoints_px - truth.keypoints_px)[known].abs()
            assert (error > 0).all()
            ratios.append((error.mean(dim=-1) / found.keypoint_sigma_px[known]).median())
        assert 0.5 < float(torch.stack(ratios).median()) < 2


def test_a_hidden_point_is_reported_as_less_visible(chunks: dict[str, list[Labelled]]):
    seen, hidden = [], []
    for item in chunks["street"]:
        found, visible = item.sample.detection, item.truth.visible
        assert found is not None
        known = found.observed[:NUM_JOINTS]
        seen.append(found.keypoint_visibility[known & visible])
        hidden.append(found.keypoint_visibility[known & ~visible])
    assert float(torch.cat(hidden).mean()) < 0.6 < float(torch.cat(seen).mean())


def test_a_studio_shows_whole_people_on_its_floor_from_four_cameras(chunks: dict[str, list[Labelled]]):
    """The lowest joint is as far below the camera, along the camera's up axis, as the camera is high."""
    cameras = set()
    for item in chunks["studio"]:
        truth = item.truth
        assert truth.visible.all()
        fits = []
        for camera in STUDIO.cameras:
            roll, elevation = np.deg2rad((camera.roll_deg, camera.elevation_deg))
            up = torch.tensor(
                [np.sin(roll) * np.cos(elevation), -np.cos(roll) * np.cos(elevation), -np.sin(elevation)]
            ).float()
            focal = camera.focal_mm / 36 * STUDIO.image_size
            below = -float((truth.joints_cam_m @ up).min())
            fits.append(abs(truth.camera.focal_px - focal) < 0.01 and abs(below - camera.height_m) < 1e-3)
        assert sum(fits) == 1
        cameras.add(fits.index(True))
    assert len(cameras) == 4


@pytest.mark.parametrize(("recipe", "people"), [(STUDIO, 5), (STUDIO_TEST, 2), (STREET, 32)])
def test_a_studio_shows_the_same_few_people(body: Body, recipe: SceneRecipe, people: int):
    def shapes(recipe: SceneRecipe) -> set[tuple[float, ...]]:
        items = SceneMaker(body, recipe, seed=5).chunk(0)
        return {tuple(item.labelled.truth.params.betas.tolist()) for item in items}

    assert len(found := shapes(recipe)) == people
    assert recipe is STUDIO or not found & shapes(STUDIO)


def test_a_chunk_is_the_same_whoever_makes_it(body: Body):
    first, second = SceneMaker(body, WILD, 2), SceneMaker(body, WILD, 2)
    second.chunk(0, 1)  # another order of making
    a, b = first.chunk(1, 4)[3], second.chunk(1, 5)[3]
    assert a.jpeg == b.jpeg
    assert a.jpeg != SceneMaker(body, WILD, 3).chunk(1, 4)[3].jpeg


def test_a_set_comes_back_from_disk(tmp_path: Path, body: Body):
    folder = make_scenes(tmp_path / "set", LAB, 7, 5)
    made = [scene.labelled for scene in SceneMaker(body, LAB, 7).chunk(0)[:5]]
    for before, after in zip(made, read_labelled(folder), strict=True):
        assert before.sample.id == after.sample.id
        np.testing.assert_array_equal(before.sample.image, after.sample.image)
        assert before.sample.box == after.sample.box
        torch.testing.assert_close(before.truth.params.body_pose, after.truth.params.body_pose)
        np.testing.assert_array_equal(before.truth.mask, after.truth.mask)
        assert torch.equal(before.truth.visible, after.truth.visible)


def test_a_detection_comes_back_from_disk(tmp_path: Path, body: Body):
    folder = make_scenes(tmp_path / "set", STREET, 7, 3, keep_truth=False)
    made = [scene.labelled.sample for scene in SceneMaker(body, STREET, 7).chunk(0, 3)]
    for before, after in zip(made, read_samples(folder), strict=True):
        assert before.detection is not None
        assert after.detection is not None
        for name in ("points_px", "sigma_px", "visibility", "depth_m", "depth_sigma_m"):
            assert torch.equal(getattr(before.detection, name), getattr(after.detection, name))


def test_a_set_of_an_earlier_version_is_recognised(tmp_path: Path):
    """Its description does not know the fields that `lab` does not use."""
    folder = make_scenes(tmp_path / "set", LAB, 7, 2)
    written = json.loads((folder / "set.json").read_text())
    assert not set(written["recipe"]) & {"cameras", "subjects", "detector"}
    assert "detection" not in pq.read_schema(folder / "samples.parquet").names


def test_a_set_is_made_once_and_guards_its_name(tmp_path: Path):
    folder = make_scenes(tmp_path / "set", LAB, 7, 3)
    stamp, digest = (folder / "samples.parquet").stat().st_mtime_ns, set_digest(folder)
    make_scenes(folder, LAB, 7, 3)
    assert (folder / "samples.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="another set"):
        make_scenes(folder, LAB, 8, 3)
    assert set_digest(make_scenes(tmp_path / "again", LAB, 7, 3)) == digest
    assert set_digest(make_scenes(tmp_path / "other", LAB, 8, 3)) != digest


def test_samples_are_read_without_the_truth(tmp_path: Path):
    folder = make_scenes(tmp_path / "set", WILD, 1, 3)
    (folder / "truth.parquet").write_bytes(b"not a parquet file")
    samples = read_samples(folder)
    assert [isinstance(sample, Sample) for sample in samples] == [True] * 3
    assert len(samples[1:]) == 2
    with pytest.raises(Exception, match=r"[Pp]arquet"):
        read_truth(folder)


@pytest.mark.slow
def test_processes_make_what_one_makes(tmp_path: Path):
    one = make_scenes(tmp_path / "one", LAB, 3, 70)
    two = make_scenes(tmp_path / "two", LAB, 3, 70, workers=2)
    hashes = [hashlib.sha256((folder / "samples.parquet").read_bytes()).digest() for folder in (one, two)]
    assert hashes[0] == hashes[1]
