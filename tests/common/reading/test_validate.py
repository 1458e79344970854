"""Errors name the file, the key, and what was found."""

import numpy as np
import pytest

from common.reading.validate import (
    FlawedRecord,
    existing_image,
    fits_float32,
    members,
    numbers,
    records,
    require,
    rows,
)


def test_missing_and_found_names_are_listed():
    with pytest.raises(ValueError, match=r"^a\.npz lacks b, z; it holds a, c$"):
        require({"c": 1, "a": 2}, ["a", "b", "z"], "a.npz")
    with pytest.raises(ValueError, match=r"it holds nothing$"):
        require([], ["a"], "a.npz")


@pytest.mark.parametrize("found", [3, None, "ab"])
def test_a_value_without_members_is_refused(found):
    with pytest.raises(ValueError, match=r"^x is of type \w+, not an object that holds a, b$"):
        require(found, ["a", "b"], "x")


def test_members_have_their_type():
    assert members({"a": 1, "b": None, "c": 2}, {"a": int | str, "b": object}, "x")["c"] == 2
    with pytest.raises(ValueError, match=r"^a of x is of type list, not int or str$"):
        members({"a": []}, {"a": int | str}, "x")
    with pytest.raises(ValueError, match=r"^x is of type list, not an object that holds a$"):
        members(["a"], {"a": int}, "x")


def test_records_come_with_their_place(tmp_path):
    content = {"people": [{"a": 1}, 3]}
    found = records(content, "people", "person", {"a": int}, tmp_path)
    assert next(found) == (f"person 0 of {tmp_path}", {"a": 1})
    with pytest.raises(ValueError, match=r"^person 1 of .* is of type int, not an object"):
        next(found)
    with pytest.raises(ValueError, match=r"^people of .* is of type dict, not a list$"):
        next(records({"people": {}}, "people", "person", {}, tmp_path))


def test_long_files_are_not_listed_whole():
    with pytest.raises(ValueError, match=r"it holds k00, .*k11 and 28 more$"):
        require([f"k{index:02d}" for index in range(40)], ["a"], "a.npz")


def test_flat_lists_and_axes_of_length_one_are_accepted():
    for value in ([[1, 2], [3, 4]], [1, 2, 3, 4], [[[1, 2], [3, 4]]]):
        assert numbers(value, (2, 2), "x").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"x has shape \(4, 1\), not \(2, 3\)"):
        numbers([[1], [2], [3], [4]], (2, 3), "x")


@pytest.mark.parametrize("value", [[[1, 2], [3]], {"a": 1}, "text"])
def test_values_that_are_not_arrays_are_refused(value):
    with pytest.raises(ValueError, match="x is not an array of"):
        numbers(value, (2, 2), "x")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_numbers_must_be_finite(value):
    """numpy converts JSON's null to nan."""
    with pytest.raises(ValueError, match="x has values that are not finite"):
        numbers([1.0, value], (2,), "x")


def test_transposed_numbers_are_refused():
    """3DPW's `poses2d` has shape (3, 18); (18, 3) has as many numbers."""
    with pytest.raises(ValueError, match=r"has shape \(18, 3\), not \(3, 18\)"):
        numbers(np.zeros((18, 3)), (3, 18), "poses2d")


def test_rows_of_any_width():
    assert rows(np.zeros((2, 5)), 2, (None,), "x").shape == (2, 5)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\), not \(3, any\)"):
        rows(np.zeros((2, 5)), 3, (None,), "x")
    with pytest.raises(ValueError, match=r"x has shape \(2,\), not \(2, 5\)"):
        rows(np.zeros(2), 2, (5,), "x")


def test_only_rows_of_shape_zero_may_be_strings():
    assert rows(["m", "f"], 2, (), "x").tolist() == ["m", "f"]
    for value, shape in (([["m"], ["f"]], (1,)), ([None, "f"], ())):
        with pytest.raises(ValueError, match=r"^x holds .*, not numbers$"):
            rows(value, 2, shape, "x")
    with pytest.raises(ValueError, match=r"^x is not an array"):
        rows([[1, 2], [3]], 2, (2,), "x")


def test_an_image_that_is_missing(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FlawedRecord, match="no image at"):
        existing_image(tmp_path, "b.jpg")
    assert existing_image(tmp_path, "a.jpg") == tmp_path / "a.jpg"


@pytest.mark.parametrize("image", ["link.jpg", "folder/a.jpg"])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path, image):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "set" / "folder").symlink_to(tmp_path)
    with pytest.raises(FlawedRecord, match=r"is a link out of .*set, which is not followed"):
        existing_image(tmp_path / "set", image)


def test_links_within_the_folder_and_to_it_are_followed(tmp_path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "a.jpg").touch()
    (tmp_path / "set" / "b.jpg").symlink_to("deep/a.jpg")
    (tmp_path / "set-1").symlink_to("set")
    assert existing_image(tmp_path / "set-1", "b.jpg") == tmp_path / "set-1" / "b.jpg"


@pytest.mark.parametrize("image", ["../a.jpg", "b/../../a.jpg", "{}/a.jpg"])
def test_an_image_outside_of_the_folder_is_not_read(tmp_path, image):
    (tmp_path / "set").mkdir()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FlawedRecord, match="an image outside of"):
        existing_image(tmp_path / "set", image.format(tmp_path))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -3.5e38])
def test_numbers_that_are_infinite_in_float32_do_not_fit(value):
    assert fits_float32(np.array([1.0, -3.4e38, 0.0]))
    assert not fits_float32(np.array([1.0, value]))
