"""One sentence for every wrong layout."""

import numpy as np
import pytest

from hmr.layout import image_size, numbers, require, rows


def test_what_is_missing_and_what_is_there():
    with pytest.raises(ValueError, match=r"^a\.npz lacks b, z; it holds a, c$"):
        require({"c": 1, "a": 2}, ["a", "b", "z"], "a.npz")
    with pytest.raises(ValueError, match=r"it holds nothing$"):
        require([], ["a"], "a.npz")


def test_long_files_are_not_listed_whole():
    with pytest.raises(ValueError, match=r"it holds k00, .*k11 and 28 more$"):
        require([f"k{index:02d}" for index in range(40)], ["a"], "a.npz")


def test_flat_lists_and_single_axes_are_the_same_numbers():
    for value in ([[1, 2], [3, 4]], [1, 2, 3, 4], [[[1, 2], [3, 4]]]):
        assert numbers(value, (2, 2), "x").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"x has shape \(4, 1\), not \(2, 3\)"):
        numbers([[1], [2], [3], [4]], (2, 3), "x")


@pytest.mark.parametrize("value", [[[1, 2], [3]], {"a": 1}, "text"])
def test_what_is_no_array(value):
    with pytest.raises(ValueError, match="x is not an array of"):
        numbers(value, (2, 2), "x")


@pytest.mark.parametrize("hole", [None, float("nan"), float("inf")])
def test_holes_are_no_numbers(hole):
    """JSON's null is numpy's nan."""
    with pytest.raises(ValueError, match="x has values that are not finite"):
        numbers([1.0, hole], (2,), "x")


def test_transposed_numbers_are_not_taken():
    """(3, 18) and (18, 3) have as many numbers; 3DPW's `poses2d` means only one of them."""
    with pytest.raises(ValueError, match=r"has shape \(18, 3\), not \(3, 18\)"):
        numbers(np.zeros((18, 3)), (3, 18), "poses2d")


def test_rows_of_any_width():
    assert rows(np.zeros((2, 5)), 2, (None,), "x").shape == (2, 5)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\), not \(3, any\)"):
        rows(np.zeros((2, 5)), 3, (None,), "x")
    with pytest.raises(ValueError, match=r"x has shape \(2,\), not \(2, 5\)"):
        rows(np.zeros(2), 2, (5,), "x")


def test_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg is no image"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="no image at"):
        image_size(tmp_path / "b.jpg")
