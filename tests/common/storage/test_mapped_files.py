import gc
import os
from pathlib import Path

import numpy as np
import pytest

from common.storage.mapped_files import mapped_array, reserved_file


def test_an_array_in_a_file_is_zero_can_be_written_and_leaves_no_name(tmp_path):
    array = mapped_array((3, 2), np.dtype(np.float32), tmp_path)
    assert not array.any()
    array[1] = 5.0
    assert array.sum() == 10.0
    assert not list(tmp_path.iterdir())


def test_a_mapped_array_lies_in_a_file_that_goes_with_it_and_one_without_a_folder_in_memory(tmp_path):
    def files() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    in_memory, mapped = (mapped_array((100,), np.dtype(np.float64), folder) for folder in (None, tmp_path))
    assert files() == 1
    assert np.array_equal(in_memory, mapped)
    del mapped
    gc.collect()
    assert files() == 0


def test_the_place_of_a_file_is_reserved(tmp_path):
    with reserved_file(tmp_path, 1 << 20) as file:
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20


def test_a_disk_without_room_is_named_with_the_size(tmp_path):
    with pytest.raises(OSError, match=rf"{tmp_path} needs room for 1.15e\+09 GB, and its disk has"):
        mapped_array((1 << 60,), np.dtype(np.int8), tmp_path)
    assert not list(tmp_path.iterdir())
