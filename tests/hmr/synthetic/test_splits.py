"""The open benchmark: its splits share no scene, a small size begins a large one, wild-train has no truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.storage.fingerprint import file_digest
from hmr.body.model import EMBEDDED_BODY
from hmr.policy.checkpoint import BASES
from hmr.synthetic.splits import GAPS, SPLITS, calibration_parts, draw_split, refuse_seed_of_split
from hmr.synthetic.store import read_labelled, read_samples, read_truth, set_digest
from tests.agent.tools.tool_case import write_larger_body


def test_no_two_splits_draw_from_the_same_stream():
    assert len({(split.recipe.name, split.seed) for split in SPLITS.values()}) == len(SPLITS)


def test_a_small_split_begins_a_large_one(tmp_path: Path):
    for split in ("wild-test", "street-test"):
        few, more = (read_samples(draw_split(split, tmp_path, count)) for count in (2, 3))
        assert [sample.id for sample in few] == [sample.id for sample in more][:2]
        if split == "street-test":
            first, same = few[1].detection, more[1].detection
            assert first is not None
            assert same is not None
            assert torch.equal(first.points_px, same.points_px)


def test_alignment_of_every_base_policy_has_its_splits():
    assert set(GAPS) == set(BASES)
    for gap in GAPS.values():
        assert SPLITS[gap.train].recipe.name == SPLITS[gap.calibration].recipe.name
        assert not SPLITS[gap.align].truth
        assert SPLITS[gap.align].recipe.name != SPLITS[gap.train].recipe.name


@pytest.mark.parametrize(("recipe", "seed"), [("studio", 7), ("studio", 8), ("street", 9), ("street", 10)])
def test_training_must_not_use_the_scenes_of_a_test(recipe: str, seed: int):
    with pytest.raises(ValueError, match=f"seed {seed} of {recipe} draws the scenes of {recipe}-"):
        refuse_seed_of_split(recipe, seed)


def test_training_may_use_the_scenes_for_training():
    for split in ("lab-train", "studio-train"):
        refuse_seed_of_split(SPLITS[split].recipe.name, SPLITS[split].seed)


@pytest.mark.parametrize("split", ["wild-train", "street-align"])
def test_what_is_aligned_on_is_the_same_with_and_without_its_truth(split: str, tmp_path: Path):
    blind = draw_split(split, tmp_path, 2)
    seeing = draw_split(split, tmp_path, 2, uses_truth=True)
    assert "uses-truth" in seeing.name
    assert set_digest(blind) == set_digest(seeing)
    assert not (blind / "truth.parquet").exists()
    with pytest.raises(FileNotFoundError, match="no truth"):
        read_truth(blind)
    assert len(read_truth(seeing)) == 2


def test_calibration_parts_share_the_set():
    assert calibration_parts(8) == {"explore": [0, 2, 4, 6], "admit": [1, 5], "report": [3, 7]}
    for part, rows in calibration_parts(101).items():
        assert set(rows) <= set(calibration_parts(400)[part])


def test_an_unknown_split_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="wild-trial"):
        draw_split("wild-trial", tmp_path)


def test_photographs_stand_behind_the_bodies_where_a_folder_is_given(tmp_path: Path):
    (tmp_path / "walls").mkdir()
    Image.new("RGB", (300, 260), (10, 200, 30)).save(tmp_path / "walls" / "green.png")
    folder = draw_split("lab-test", tmp_path, 1, backdrops=tmp_path / "walls")
    corner = read_samples(folder)[0].image[:8, :8].reshape(-1, 3).mean(axis=0)
    assert corner[1] > 2 * max(corner[0], corner[2])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        draw_split("lab-test", tmp_path / "other", 1, backdrops=tmp_path / "other-walls")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no photographs"):
        draw_split("lab-test", tmp_path / "other", 1, backdrops=tmp_path / "bare")


def test_scenes_of_another_body_are_a_set_of_its_own(tmp_path: Path):
    file = write_larger_body(tmp_path)
    embedded, larger = (draw_split("lab-test", tmp_path, 1, body=body) for body in (None, file))
    assert (embedded.name, larger.name) == ("lab-test-1", "lab-test-1-larger")
    assert json.loads((larger / "set.json").read_text())["body"] == file_digest(file)
    height_m = [
        float(read_labelled(folder)[0].truth.joints_cam_m[:, 1].std()) for folder in (embedded, larger)
    ]
    assert height_m[1] > 1.2 * height_m[0]
    assert draw_split("lab-test", tmp_path, 1, body=file) == larger
    file.write_bytes(EMBEDDED_BODY.read_bytes())
    with pytest.raises(ValueError, match="another set"):
        draw_split("lab-test", tmp_path, 1, body=file)


def test_a_set_from_before_bodies_could_be_chosen_is_of_the_embedded_one(tmp_path: Path):
    folder = draw_split("lab-test", tmp_path, 1)
    recorded = json.loads((folder / "set.json").read_text())
    del recorded["body"]
    (folder / "set.json").write_text(json.dumps(recorded))
    assert draw_split("lab-test", tmp_path, 1) == folder


def test_two_motions_of_one_name_are_two_sets(tmp_path: Path):
    for place, frames in (("a", 4), ("b", 6)):
        (tmp_path / place / "clips").mkdir(parents=True)
        np.savez(
            tmp_path / place / "clips" / "walk.npz",
            poses=np.zeros((frames, 156)), trans=np.zeros((frames, 3)), betas=np.zeros(16), gender="neutral",
            mocap_framerate=12.0,
        )  # fmt: skip
    draw_split("lab-test", tmp_path / "sets", 1, motion=tmp_path / "a" / "clips")
    with pytest.raises(ValueError, match="another set"):
        draw_split("lab-test", tmp_path / "sets", 1, motion=tmp_path / "b" / "clips")
