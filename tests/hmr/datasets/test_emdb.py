"""EMDB's pickles (eth-ait/emdb dataset.md)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.datasets.emdb import read_emdb
from tests.hmr.datasets.layouts import emdb, emdb_sequence, rigid

PICKLE = "P0/00_walk/P0_00_walk_data.pkl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    emdb(tmp_path)
    return tmp_path


def rewrite(folder: Path, content: dict[str, object]) -> None:
    (folder / PICKLE).write_bytes(pickle.dumps(content))


def test_good_frames_with_a_valid_box(folder):
    """Frame 1 is not a good frame, frame 3 has an invalid box."""
    images = [annotation.image for annotation in read_emdb(folder, "emdb1")]
    assert images == ["P0/00_walk/images/00000.jpg", "P0/00_walk/images/00002.jpg"]


def test_splits_are_the_sequences_flags(folder):
    assert list(read_emdb(folder, "emdb2")) == []
    assert len(list(read_emdb(folder, "all"))) == 2


def test_the_translation_depends_on_the_pelvis_of_the_body_model(folder):
    """SMPL's translation in the camera frame is R (J + t) + c - J, for the rest pelvis J of the body model."""
    annotation = list(read_emdb(folder, "emdb1"))[1]  # frame 2
    rest = torch.tensor([0.01, -0.23, 0.02])
    matrix = torch.from_numpy(rigid(2)).float()
    world = torch.from_numpy(emdb_sequence()["smpl"]["trans"][2]).float()
    expected = matrix[:3, :3] @ (rest + world) + matrix[:3, 3] - rest
    torch.testing.assert_close(annotation.smpl.placement.transl_m(rest), expected)
    assert annotation.joints == ()  # the file has none in space


@pytest.mark.parametrize("key", ["good_frames_mask", "bboxes", "kp2d", "emdb1"])
def test_missing_and_found_keys_are_named(folder, key):
    content = emdb_sequence()
    del content[key]
    rewrite(folder, content)
    with pytest.raises(ValueError, match=rf"P0_00_walk_data.pkl lacks {key}; it holds .*n_frames"):
        list(read_emdb(folder, "all"))


@pytest.mark.parametrize(
    ("outer", "inner"), [("camera", "extrinsics"), ("smpl", "poses_root"), ("bboxes", "bboxes")]
)
def test_inner_keys_are_named_too(folder, outer, inner):
    content = emdb_sequence()
    del content[outer][inner]
    rewrite(folder, content)
    with pytest.raises(ValueError, match=rf"{outer} of .*_data.pkl lacks {inner}; it holds"):
        list(read_emdb(folder, "all"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bboxes": {"bboxes": np.ones((4, 4)), "invalid_idxs": [7]}}, "names frame 7; .* has frames 0 to 3"),
        (
            {"bboxes": {"bboxes": np.ones((4, 4)), "invalid_idxs": [-1]}},
            "bboxes.invalid_idxs of .*_data.pkl names",
        ),
        ({"bboxes": {"bboxes": np.ones((4, 4)), "invalid_idxs": "none"}}, "invalid_idxs of .* not an array"),
        ({"smpl": 3}, "smpl of .*_data.pkl is of type int, not an object that holds poses_root"),
        ({"n_frames": None}, "n_frames of .*_data.pkl has values that are not finite"),
        ({"gender": "x"}, "gender of .*_data.pkl: the gender must be"),
    ],
)
def test_inconsistent_values_are_refused(folder, changes, message):
    rewrite(folder, emdb_sequence() | changes)
    with pytest.raises(ValueError, match=message):
        list(read_emdb(folder, "all"))


def test_wrong_arrays_are_refused(folder):
    content = emdb_sequence()
    content["smpl"]["poses_body"] = np.zeros((4, 63))
    rewrite(folder, content)
    with pytest.raises(ValueError, match=r"smpl.poses_body of .* has shape \(4, 63\), not \(4, 69\)"):
        list(read_emdb(folder, "all"))
