"""Prepared sets: complete or absent, with separate annotations and unchanged images."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hmr.datasets import annotated_set
from hmr.datasets.annotated_set import photograph_digests, prepare, read_annotations
from hmr.datasets.sources import SOURCES
from hmr.synthetic.store import read_samples
from tests.hmr.datasets.layouts import coco, coco_records, image, pw3d_coco, write_json

COCO, PW3D = SOURCES["coco"], SOURCES["3dpw-coco"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_jpeg_files_are_copied(folder, tmp_path):
    coco(folder)
    out = prepare(COCO, folder, "val2017", tmp_path / "set")
    (row,) = pq.read_table(out / "samples.parquet").to_pylist()
    assert row["jpeg"] == (folder / "val2017" / "000000000139.jpg").read_bytes()


def test_the_samples_contain_no_ground_truth(folder, tmp_path):
    pw3d_coco(folder)
    out = prepare(PW3D, folder, "test", tmp_path / "set")
    assert pq.read_table(out / "samples.parquet").column_names == ["id", "jpeg", "box", "camera"]
    camera = read_samples(out)[0].camera
    assert camera.focal_px == 80.0  # the diagonal of 64 x 48, not the true 190
    (out / "annotations.parquet").write_bytes(b"no truth can be read")
    assert len(read_samples(out)) == 11


def test_other_images_are_converted_to_jpeg(folder, tmp_path):
    content = coco_records()
    content["images"][0]["file_name"] = "grey.png"
    write_json(folder / "annotations" / "person_keypoints_val2017.json", content)
    (folder / "val2017").mkdir()
    Image.fromarray(np.full((48, 64), 90, np.uint8)).save(folder / "val2017" / "grey.png")
    out = prepare(COCO, folder, "val2017", tmp_path / "set")
    assert abs(read_samples(out)[0].image.astype(int) - 90).max() <= 1


def test_exif_rotation_is_not_applied(folder, tmp_path):
    coco(folder)
    path = folder / "val2017" / "000000000139.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.open(io.BytesIO(path.read_bytes())).save(path, exif=exif)
    out = prepare(COCO, folder, "val2017", tmp_path / "set")
    assert read_samples(out)[0].image.shape == (48, 64, 3)


def test_every_and_limit_select_annotations(folder, tmp_path):
    pw3d_coco(folder)
    out = prepare(PW3D, folder, "test", tmp_path / "set", every=3, limit=2)
    assert [each.person for each in read_annotations(out).values()] == ["0", "3"]


def test_annotations_are_written_in_batches(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(annotated_set, "BATCH_ROWS", 4)
    pw3d_coco(folder)
    told: list[int] = []
    out = prepare(PW3D, folder, "test", tmp_path / "set", progress=told.append)
    assert told == [4, 8, 11]
    assert pq.ParquetFile(out / "samples.parquet").num_row_groups == 3


def test_the_same_set_is_reused_and_another_is_refused(folder, tmp_path):
    split = pw3d_coco(folder)
    out = prepare(PW3D, folder, split, tmp_path / "set")
    before = (out / "samples.parquet").stat().st_mtime_ns
    assert prepare(PW3D, folder, split, out) == out
    assert (out / "samples.parquet").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="already holds another set"):
        prepare(PW3D, folder, split, out, every=2)


def test_an_empty_folder_is_filled(folder, tmp_path):
    split = coco(folder)
    (tmp_path / "set").mkdir()
    assert len(read_samples(prepare(COCO, folder, split, tmp_path / "set"))) == 1


def test_a_folder_with_other_files_is_refused(folder, tmp_path):
    split = pw3d_coco(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="a folder with other files in it"):
        prepare(PW3D, folder, split, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_failure_leaves_no_set_and_can_be_repeated(folder, tmp_path):
    split = pw3d_coco(folder)
    broken = folder / "imageFiles" / "downtown_walk_00" / "image_00009.jpg"
    content = broken.read_bytes()
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image_00009.jpg: not an image that can be read"):
        prepare(PW3D, folder, split, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    broken.write_bytes(content)
    out = prepare(PW3D, folder, split, tmp_path / "set")
    assert json.loads((out / "set.json").read_text())["count"] == 11
    assert not (tmp_path / "set.partial").exists()


def test_the_digest_depends_on_the_content(folder, tmp_path):
    split = coco(folder)
    digests = []
    for name in ("one", "two", "changed"):
        if name == "changed":
            Image.new("RGB", (64, 48)).save(folder / "val2017" / "000000000139.jpg")
        out = prepare(COCO, folder, split, tmp_path / name)
        digests.append(json.loads((out / "set.json").read_text())["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_photographs_are_recognised_in_sets_of_other_sources(folder, tmp_path):
    split = pw3d_coco(folder)
    other = dataclasses.replace(PW3D, name="other")
    first = photograph_digests(prepare(PW3D, folder, split, tmp_path / "first"))
    second = photograph_digests(prepare(other, folder, split, tmp_path / "second"))
    assert list(first) == [sample.id for sample in read_samples(tmp_path / "first")]
    assert first.keys().isdisjoint(second)  # ids contain the name of the source
    assert list(first.values()) == list(second.values())
    changed = folder / "imageFiles" / "downtown_walk_00" / "image_00009.jpg"
    Image.new("RGB", (64, 48), "red").save(changed)
    third = photograph_digests(prepare(PW3D, folder, split, tmp_path / "third"))
    assert [name for name in first if first[name] != third[name]] == [list(first)[9]]
    with pytest.raises(FileNotFoundError):
        photograph_digests(tmp_path / "nowhere")
    (tmp_path / "third" / "samples.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"samples.parquet is damaged"):
        photograph_digests(tmp_path / "third")


def test_images_of_another_size_than_their_camera_are_refused(folder, tmp_path):
    split = pw3d_coco(folder)
    image(folder / "imageFiles" / "downtown_walk_00" / "image_00000.jpg", (32, 24))
    with pytest.raises(ValueError, match="has 32 x 24 pixels; its camera was calibrated for 64 x 48"):
        prepare(PW3D, folder, split, tmp_path / "set")


def test_broken_images_and_empty_splits_are_refused(folder, tmp_path):
    split = coco(folder)
    path = folder / "val2017" / "000000000139.jpg"
    for content in (path.read_bytes()[:-400], b"\xff\xd8 no picture"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not an image that can be read"):
            prepare(COCO, folder, split, tmp_path / "set")
    write_json(folder / "annotations" / "person_keypoints_val2017.json", {"images": [], "annotations": []})
    with pytest.raises(ValueError, match=r"split 'val2017' of coco in .* holds no person"):
        prepare(COCO, folder, split, tmp_path / "set")


def test_reading_a_missing_or_different_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        read_annotations(tmp_path)
    (tmp_path / "annotations.parquet").write_text("truth")
    with pytest.raises(ValueError, match=r"annotations.parquet is damaged"):
        read_annotations(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "annotations.parquet")
    with pytest.raises(ValueError, match=r"annotations.parquet lacks image, .* it holds id"):
        read_annotations(tmp_path)


def test_a_different_set_json_is_named(folder, tmp_path):
    (tmp_path / "set").mkdir()
    for text, message in (("mine", "is not a JSON file"), ("[]", "holds a JSON list, not an object")):
        (tmp_path / "set" / "set.json").write_text(text)
        with pytest.raises(ValueError, match=f"set.json {message}"):
            prepare(COCO, folder, coco(folder), tmp_path / "set")
