"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from common.storage.files import atomic_folder, atomic_path, write_bytes, write_text


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path: Path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    with atomic_path(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    write_bytes(str(file), b"newer")
    assert file.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_file_alone(tmp_path: Path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(file) as partial:
        partial.write_text(f"half {1 / 0}")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_at_the_end_and_what_a_kill_left_is_deleted(tmp_path: Path):
    left = tmp_path / "set.partial"
    left.mkdir()
    (left / "old").touch()
    with atomic_folder(tmp_path / "set") as partial:
        (partial / "new").touch()
        assert not (tmp_path / "set").exists()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other"):
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
