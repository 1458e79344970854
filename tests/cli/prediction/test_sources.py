"""Which files the arguments name, and the names of their output files."""

from pathlib import Path

import pytest

from cli.prediction.sources import list_sources


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(paths: list[Path], out: Path = Path("out")) -> list[str]:
    return [source.name for source in list_sources(paths, out)]


def test_a_folder_stands_for_all_its_photographs_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "sub/c.webp", "notes.txt", "clip.mp4", "sub/deep/a.tiff")
    assert names([tmp_path]) == ["a", "b", "sub/c", "sub/deep/a"]


def test_the_output_of_an_earlier_run_is_skipped(tmp_path):
    touch(tmp_path, "a.png", "out/a-0-overlay.png")
    assert names([tmp_path], tmp_path / "out") == ["a"]


def test_the_output_folder_is_recognised_under_another_name(tmp_path):
    touch(tmp_path, "a.png", "x/b.png", "out/a-0-overlay.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert names([tmp_path], tmp_path / "x" / ".." / "out") == ["a", "x/b"]
    assert names([tmp_path], tmp_path / "link") == ["a", "x/b"]


def test_names_that_differ_only_in_the_suffix_keep_it(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "b.jpg")
    assert names([tmp_path]) == ["a.jpg", "a.png", "b"]


def test_given_files_are_always_listed_and_videos_are_recognised_by_suffix():
    photo, clip = list_sources([Path("x/photo.odd"), Path("clip.GIF")], Path("out"))
    assert (photo.name, photo.is_video) == ("photo", False)
    assert (clip.name, clip.is_video) == ("clip", True)


def test_two_inputs_of_one_output_name_are_rejected():
    with pytest.raises(ValueError, match=r"2 inputs have the output name a\.jpg"):
        names([Path("x/a.jpg"), Path("y/a.jpg")])


def test_a_folder_without_photographs_is_rejected(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"no photograph \(\.avif, \.bmp"):
        names([tmp_path])


def test_the_pictures_of_other_runs_in_a_folder_are_skipped(tmp_path):
    touch(
        tmp_path, "a.png", "runs/one/manifest.jsonl", "runs/one/sub/a-0-overlay.png", "runs/two/a-0-group.png"
    )
    touch(tmp_path, "runs/two/pictures.jsonl", "trip/b.png")
    assert names([tmp_path]) == ["a", "trip/b"]
    touch(tmp_path, "manifest.jsonl")  # of the folder itself: somebody's own file
    assert names([tmp_path]) == ["a", "trip/b"]


def test_photographs_that_cannot_be_decoded_are_counted(tmp_path, capsys):
    touch(tmp_path, "a.png", "b.HEIC", "c.heif")
    assert names([tmp_path]) == ["a"]
    assert "2 HEIC files, such as b.HEIC, cannot be read" in capsys.readouterr().err
