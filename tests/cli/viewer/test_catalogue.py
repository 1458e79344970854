"""Photographs of runs and files, and photographs for which bodies are sampled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.photos.hypotheses_file import write_hypotheses
from cli.photos.people import DetectedPerson
from cli.photos.run_files import find_photo, read_scores, write_critique
from cli.viewer.catalogue import find_entries, sample_photo
from hmr.body.model import Body
from hmr.images.photographs import load_photo, sample_of
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Hypotheses
from tests.agent.critique_case import PerfectDetector, spoiled_group

BOX = Box(5.0, 5.0, 85.0, 115.0)
ANSWER = {"scores": [10.0, None, 90.0], "comments": ["a", "", "b"]}


def save_photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)).save(path)
    return path


def save_group(path: Path, people: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    camera = Camera(300.0, 45.0, 60.0, 90, 120)
    groups = [(BOX, Hypotheses(spoiled_group(seed=row, group=3), camera)) for row in range(people)]
    write_hypotheses(path, groups)
    return path


def open_all(path: Path, body: Body, photos: Path | None = None) -> dict:
    entries = find_entries(path, photos, body, PerfectDetector)
    return {entry.name: entry.load() for entry in entries}


def test_a_critiqued_group_names_its_photograph_and_has_its_scores(body: Body, tmp_path: Path):
    photo = save_photo(tmp_path / "photos" / "one.png")
    write_critique(save_group(tmp_path / "run" / "one-0.npz"), photo, ANSWER)
    save_group(tmp_path / "run" / "one-1.npz")
    write_critique(tmp_path / "run" / "one-1.npz", photo, {**ANSWER, "scores": [None] * 3})
    (shown,) = open_all(tmp_path / "run", body).values()
    assert [one.name for one in shown.people] == ["one-0", "one-1"]
    assert (shown.people[0].scores, shown.people[0].comments) == ((10.0, None, 90.0), ("a", "", "b"))
    assert (shown.people[0].best, shown.people[1].best) == (2, 0)
    assert shown.people[0].person.detection is not None
    assert shown.num_steps == 1


def test_predict_s_manifest_names_the_photographs(body: Body, tmp_path: Path):
    """The last record of a name counts; an incomplete last line is left out."""
    right, gone = save_photo(tmp_path / "photos" / "sub" / "one.png"), tmp_path / "gone.png"
    npz = save_group(tmp_path / "run" / "sub" / "one-0.npz")
    records = [
        {"name": "sub/one", "photo": str(gone)},
        {"name": "sub/one", "photo": str(right)},
        {"name": "x"},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records) + '{"name": "sub/one", "pho'
    (tmp_path / "run" / "manifest.jsonl").write_text(lines)
    assert find_photo(npz) == right
    assert list(open_all(tmp_path / "run", body)) == ["one.png"]


def test_a_photograph_is_found_beside_the_file_and_where_the_user_says(tmp_path: Path):
    npz = save_group(tmp_path / "run" / "one-0.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no photograph one-0 or one in .*--photos"):
        find_photo(npz)
    other = save_photo(tmp_path / "photos" / "one.jpg")
    assert find_photo(npz, tmp_path / "photos") == other
    assert find_photo(npz, other) == other
    write_critique(npz, tmp_path / "moved.png", ANSWER)
    with pytest.raises(FileNotFoundError, match=r"moved.png is gone; --photos"):
        find_photo(npz)
    assert find_photo(npz, tmp_path / "photos") == other
    beside = Path(shutil.copy(other, tmp_path / "run"))
    assert find_photo(npz) == beside


def test_people_of_one_file_have_names_of_their_own(body: Body, tmp_path: Path):
    photo = save_photo(tmp_path / "two.png")
    npz = save_group(tmp_path / "two.npz", people=2)
    (shown,) = open_all(npz, body, photo).values()
    assert [(one.name, one.scores) for one in shown.people] == [("two.0", ()), ("two.1", ())]


@pytest.mark.parametrize(
    "content",
    ['{"scores": [1, 2], "comments": ["", ""]}', '{"scores": [1, 2, "3"], "comments": ["", "", ""]}',
     '{"scores": [1, 2, 3]}', "[]", "{"],
)  # fmt: skip
def test_scores_of_another_group_are_refused(tmp_path: Path, content: str):
    (tmp_path / "one-0.json").write_text(content)
    with pytest.raises(ValueError, match=r"one-0\.json"):
        read_scores(tmp_path / "one-0.npz", 3)


def test_a_folder_without_hypotheses_is_refused(body: Body, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no \.npz file of hypotheses"):
        find_entries(tmp_path, None, body, PerfectDetector)


def test_policies_share_the_noise_and_all_steps_are_kept(tiny_policy: DiffusionPolicy, tmp_path: Path):
    photo = load_photo(save_photo(tmp_path / "one.png"))
    sample = sample_of(photo.image, BOX)
    people = [DetectedPerson(sample, tiny_policy.detector.detect(sample), photo)]
    shown = sample_photo("one", photo, people, {"a": tiny_policy, "b": tiny_policy}, 3, seed=4)
    first, second = shown.people[0].sources
    assert len(first.steps) == tiny_policy.config.num_inference_steps == shown.num_steps
    for one, other in zip(first.steps, second.steps, strict=True):
        assert torch.equal(one.body_pose, other.body_pose)
    assert torch.equal(first.steps[-1].body_pose, shown.people[0].person.hypotheses.params.body_pose)
    assert not torch.equal(first.steps[0].body_pose, first.steps[-1].body_pose)
    assert shown.labels == ("a", "b")
