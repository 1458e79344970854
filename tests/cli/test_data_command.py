"""`meshcritic data prepare`."""

import json
from pathlib import Path

import pytest

from hmr.datasets.annotated_set import read_annotations
from hmr.datasets.sources import SOURCES
from tests.command import call
from tests.hmr.datasets.layouts import coco, coco_records, pw3d, write_json


def test_a_set_is_prepared(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "coco").mkdir()
    split = coco(tmp_path / "coco")
    words = (tmp_path / "coco", "--split", split, "--out", tmp_path / "set")
    code, out, err = call(monkeypatch, capsys, "data", "prepare", "coco", *words)
    assert (code, out) == (0, "")
    assert "1 people in" in err
    assert "PCK at .05, .1 and .2" in err
    assert len(read_annotations(tmp_path / "set")) == 1
    code, out, _ = call(monkeypatch, capsys, "data", "prepare", "coco", *words, "--json")
    assert code == 0
    assert json.loads(out)["count"] == 1


def test_dropped_records_are_reported_by_reason(tmp_path: Path, monkeypatch, capsys):
    split, content = coco(tmp_path), coco_records()
    content["annotations"].append({**content["annotations"][0], "id": 10, "bbox": [4.0, 4.0, 9.0, 0.0]})
    content["annotations"][0]["keypoints"][3] = 1_000_000
    write_json(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
    words = ("data", "prepare", "coco", tmp_path, "--split", split, "--out", tmp_path / "set")
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 0
    assert "1 people in" in err
    assert "1 records dropped: box without width or height\n" in err
    assert "1 keypoints ignored: far from the image or not finite\n" in err


def test_every_source_is_in_the_help(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "data", "prepare", "--help")
    words = out.replace("│", " ").split()
    for name in SOURCES:
        assert name in [word.strip(".,") for word in words]


@pytest.mark.parametrize("images", [3, [3]])
def test_json_of_another_layout_is_rejected_in_one_sentence(tmp_path: Path, monkeypatch, capsys, images):
    path = write_json(
        tmp_path / "annotations" / "person_keypoints_val2017.json", {"images": images, "annotations": []}
    )
    words = ("data", "prepare", "coco", tmp_path, "--split", "val2017", "--out", tmp_path / "set")
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("h36m", "test", "there is no data set 'h36m'; supported are human36m"),
        ("3dpw", "val", "3dpw has no split 'val'"),
        ("emdb", "emdb1", "there is no sequence"),
    ],
)
def test_invalid_arguments_end_in_one_sentence(tmp_path: Path, monkeypatch, capsys, source, split, message):
    pw3d(tmp_path)
    code, _, err = call(
        monkeypatch, capsys, "data", "prepare", source, tmp_path, "--split", split, "--out", tmp_path / "set"
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "set").exists()
