"""Flaws of single records of real data sets: the record is dropped or clipped and counted, the rest is prepared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmr.datasets.annotated_set import prepare, read_annotations
from hmr.datasets.annotation import Annotation, Dropped
from hmr.datasets.flaws import Flaws
from hmr.datasets.pw3d import read_pw3d
from hmr.datasets.sources import SOURCES
from tests.hmr.datasets import layouts
from tests.hmr.datasets.layouts import LAYOUTS, write_json, write_pickle

NOT_FINITE = "values that are not finite"
NO_BOX = "box without width or height"
NO_KEYPOINT = "no keypoint with a confidence above 0 near the image"


def _prepared(folder: Path, out: Path, layout: str) -> tuple[dict[str, Any], list[Annotation]]:
    """What set.json has, and the annotations."""
    split = LAYOUTS[layout](folder)
    return _again(folder, out, layout, split)


def _again(folder: Path, out: Path, layout: str, split: str) -> tuple[dict[str, Any], list[Annotation]]:
    prepare(SOURCES[layout], folder, split, out)
    return json.loads((out / "set.json").read_text()), list(read_annotations(out).values())


def test_a_set_without_flaws_has_no_dropped_records(tmp_path: Path) -> None:
    summary, _ = _prepared(tmp_path, tmp_path / "out", "3dpw")
    assert (summary["dropped"], summary["ignored_keypoints"]) == ({}, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_people_in_missing_images_are_dropped_and_each_image_is_counted_once(
    tmp_path: Path, layout: str
) -> None:
    source = layout.split()[0]
    split = LAYOUTS[layout](tmp_path)
    whole = prepare(SOURCES[source], tmp_path, split, tmp_path / "whole")
    names = [each.image for each in read_annotations(whole).values()]
    (tmp_path / names[0]).unlink()
    if set(names) == {names[0]}:
        with pytest.raises(
            ValueError, match=rf"holds no person; .* image missing; 1 images missing: {names[0]}"
        ):
            prepare(SOURCES[source], tmp_path, split, tmp_path / "out")
        return
    prepare(SOURCES[source], tmp_path, split, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "set.json").read_text())
    assert (summary["missing_images"], summary["first_missing"]) == (1, [names[0]])
    assert summary["dropped"]["image missing"] == names.count(names[0])
    assert summary["count"] == len(names) - names.count(names[0])


def test_three_missing_images_are_named() -> None:
    flaws = Flaws()
    for image in ("a", "b", "a", "c", "d"):
        flaws.drop(Dropped("image missing", image))
    assert flaws.lines()[-1] == "4 images missing: a, b, c, ..."
    assert Flaws.of_json(flaws.to_json()).lines() == flaws.lines()
    with pytest.raises(ValueError, match=r"set.json lacks missing_images; it holds dropped"):
        Flaws.of_json({name: value for name, value in flaws.to_json().items() if name != "missing_images"})


def _pw3d(folder: Path, change: Callable[[np.ndarray], None]) -> str:
    """3DPW with another `poses2d` of its first person in frame 0."""
    split, content = layouts.pw3d(folder), layouts.pw3d_sequence()
    change(content["poses2d"][0][0])
    write_pickle(folder / "sequenceFiles" / "test" / "courtyard_walk_00.pkl", content)
    return split


@pytest.mark.parametrize("far", [1e6, -1e6, np.nan, np.inf])
def test_a_keypoint_far_outside_the_image_does_not_change_the_box(tmp_path: Path, far: float) -> None:
    def change(xyc: np.ndarray) -> None:
        xyc[0, 3] = far

    split = _pw3d(tmp_path, change)
    summary, people = _again(tmp_path, tmp_path / "out", "3dpw", split)
    np.testing.assert_allclose([*people[0].box.center, people[0].box.side], [20, 26, 33.6])
    assert people[0].keypoints[0].confidence[3] == 0
    assert people[0].keypoints[0].positions_px.isfinite().all()
    assert (summary["count"], summary["dropped"], summary["ignored_keypoints"]) == (4, {}, 1)


def _all_far(xyc: np.ndarray) -> None:
    xyc[:2] = 1e6


def _unsure(xyc: np.ndarray) -> None:
    xyc[2] = 0.0


def _one_line(xyc: np.ndarray) -> None:
    xyc[0] = 10.0


@pytest.mark.parametrize(
    ("change", "reason"), [(_all_far, NO_KEYPOINT), (_unsure, NO_KEYPOINT), (_one_line, NO_BOX)]
)
def test_a_record_without_usable_keypoints_is_dropped(
    tmp_path: Path, change: Callable[[np.ndarray], None], reason: str
) -> None:
    split = _pw3d(tmp_path, change)
    assert next(read_pw3d(tmp_path, split)) == Dropped(reason)
    summary, people = _again(tmp_path, tmp_path / "out", "3dpw", split)
    assert (summary["count"], len(people), summary["dropped"]) == (3, 3, {reason: 1})


@pytest.mark.parametrize("key", ["poses", "trans", "jointPositions"])
def test_nan_of_one_person_drops_that_record(tmp_path: Path, key: str) -> None:
    split, content = layouts.pw3d(tmp_path), layouts.pw3d_sequence()
    content[key][1][0, 1] = np.nan
    write_pickle(tmp_path / "sequenceFiles" / "test" / "courtyard_walk_00.pkl", content)
    summary, _ = _again(tmp_path, tmp_path / "out", "3dpw", split)
    assert (summary["count"], summary["dropped"]) == (3, {NOT_FINITE: 1})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("center", np.nan, NOT_FINITE),
        ("center", 1e6, "box outside the image"),
        ("scale", 0.0, NO_BOX),
        ("scale", 1e6, "box more than 4 times as large as the image"),
        ("scale", np.inf, NOT_FINITE),
        ("body_pose", np.nan, NOT_FINITE),
        ("extra_keypoints_3d", np.inf, NOT_FINITE),
    ],
)
def test_a_row_of_an_npz_is_dropped(tmp_path: Path, key: str, value: float, reason: str) -> None:
    split, columns = layouts.hmr2(tmp_path), layouts.hmr2_columns()
    columns[key][1] = value
    np.savez(tmp_path / f"{split}.npz", **columns)
    summary, people = _again(tmp_path, tmp_path / "out", "hmr2", split)
    assert [person.person for person in people] == ["0", "2"]
    assert summary["dropped"] == {reason: 1}


def test_every_reader_continues_after_a_bad_box(tmp_path: Path) -> None:
    """One bad box in each of the other layouts."""
    for layout, box in {"humandata": "bbox_xywh", "spin": "center", "bedlam": "center"}.items():
        folder = tmp_path / layout
        folder.mkdir()
        split = LAYOUTS[layout](folder)
        with np.load(folder / f"{split}.npz", allow_pickle=True) as file:
            columns = dict(file)
        columns[box][0] = np.nan
        np.savez(folder / f"{split}.npz", **columns)
        summary, _ = _again(folder, folder / "out", layout, split)
        assert (summary["count"], sum(summary["dropped"].values())) == (1, 1)


@pytest.mark.parametrize(
    ("layout", "file", "records"),
    [
        (
            "human36m",
            "Sample_20_test_Human36M_smpl_protocol_2.json",
            layouts.human36m_records,
        ),
        ("3dpw-coco", "3DPW_test.json", layouts.pw3d_coco_records),
    ],
)
def test_records_of_json_are_dropped(
    tmp_path: Path, layout: str, file: str, records: Callable[[], dict[str, list[dict[str, Any]]]]
) -> None:
    before, _ = _prepared(tmp_path, tmp_path / "before", layout)
    content = records()
    content["annotations"][0]["bbox"] = [3.0, 4.0, float("nan"), 10.0]
    content["annotations"][1]["bbox"] = [0.0, 0.0, 1e6, 1e6]
    write_json(tmp_path / "annotations" / file, content)
    summary, _ = _again(tmp_path, tmp_path / "out", layout, "test")
    assert summary["count"] == before["count"] - 2
    assert summary["dropped"] == {NOT_FINITE: 1, "box more than 4 times as large as the image": 1}


def test_every_counts_dropped_records_and_the_limit_does_not(tmp_path: Path) -> None:
    """The chosen frames do not shift behind a dropped record."""
    split, content = layouts.pw3d_coco(tmp_path), layouts.pw3d_coco_records()
    content["annotations"][3]["bbox"] = [8.0, 6.0, float("nan"), 30.0]
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    out = prepare(SOURCES["3dpw-coco"], tmp_path, split, tmp_path / "out", every=3, limit=2)
    assert [person.person for person in read_annotations(out).values()] == ["0", "6"]


def test_a_coco_person_with_far_keypoints_only_is_dropped(tmp_path: Path) -> None:
    split, content = layouts.coco(tmp_path), layouts.coco_records()
    far = [value for _ in range(17) for value in (1_000_000, 20, 2)]
    content["annotations"].append({**content["annotations"][0], "id": 10, "keypoints": far})
    content["annotations"].append({**content["annotations"][0], "id": 11, "bbox": [4.0, 4.0, 9.0, 0.0]})
    write_json(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
    summary, people = _again(tmp_path, tmp_path / "out", "coco", split)
    assert [person.person for person in people] == ["7"]
    assert summary["dropped"] == {NO_KEYPOINT: 1, NO_BOX: 1}


def test_a_set_of_flawed_records_alone_is_refused_with_the_reasons(tmp_path: Path) -> None:
    split, content = layouts.coco(tmp_path), layouts.coco_records()
    content["annotations"][0]["bbox"] = [4.0, 4.0, 0.0, 9.0]
    write_json(tmp_path / "annotations" / "person_keypoints_val2017.json", content)
    with pytest.raises(ValueError, match=rf"holds no person; 1 records dropped: {NO_BOX}"):
        prepare(SOURCES["coco"], tmp_path, split, tmp_path / "out")
    assert not (tmp_path / "out").exists()
